"""Draws the benchmark of Speculative Streaming: speed, acceptance, settings."""

from pathlib import Path
from typing import TYPE_CHECKING

from specrt.eval.bench import BASELINE, BenchRun
from specrt.eval.plot import COLORS, draw_acceptance, draw_speedups
from specrt.eval.report import ALL, bench_rows
from specrt.eval.streaming import StreamingRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_streaming(result: StreamingRun, title: str, path: Path) -> None:
    """One line of pictures for each temperature, and the settings beside the first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5 * len(result.runs)), layout="constrained")
    grid = figure.add_gridspec(len(result.runs), 3, width_ratios=(3, 2, 2))
    for line, (temperature, run) in enumerate(result.runs.items()):
        rows = bench_rows(run)
        groups = list(dict.fromkeys((row.prompt_file, row.category) for row in rows))
        methods = list(dict.fromkeys(row.method for row in rows if row.method != BASELINE))
        speed = figure.add_subplot(grid[line, 0])
        draw_speedups(speed, rows, groups, methods)
        speed.set_title(f"Speed-up at temperature {temperature:g}", fontsize="medium", pad=12)
        acceptance = figure.add_subplot(grid[line, 1])
        draw_acceptance(acceptance, [row for row in rows if row.category == ALL], methods)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if result.ablations is not None:
        _draw_settings(figure.add_subplot(grid[0, 2]), result.ablations)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=120)


def _draw_settings(axes: "Axes", run: BenchRun) -> None:
    rows = [row for row in bench_rows(run) if row.category == ALL and row.method != BASELINE]
    names = [row.method.partition("@")[2] for row in rows]
    values = [row.speedup_vs_autoregressive or 0.0 for row in rows]
    bars = axes.barh(range(len(rows)), values, color=COLORS[2])
    axes.bar_label(bars, fmt="%.2fx", padding=3, fontsize="small")
    axes.set_yticks(range(len(rows)), names, fontsize="small")
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=1, linestyle="--")
    axes.margins(x=0.15)
    axes.set_xlabel(f"tokens/s over {BASELINE}")
    axes.set_title("Settings of streaming, all prompts", fontsize="medium", pad=12)
    axes.spines[["top", "right"]].set_visible(False)

"""Draws the benchmark of drafters: speed, acceptance, cost of a draft, fits over their bases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from specrt.eval.bench import BASELINE
from specrt.eval.draft_cost import DraftCost
from specrt.eval.parallel_fits import pooled_fits
from specrt.eval.parallelspec import ParallelSpecRun
from specrt.eval.plot import COLORS, draw_acceptance, draw_speedups
from specrt.eval.report import ALL, BenchRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES_PER_BAR = 0.14
_LEGEND_COLUMNS = 6


def draw_parallelspec(result: ParallelSpecRun, title: str, path: Path) -> None:
    """One line of pictures for each temperature; beside them drafts' cost and fits over bases."""
    from matplotlib.figure import Figure

    first = next(iter(result.rows.values()))
    count = len(result.runs)
    height = max(5, 2 + _INCHES_PER_BAR * len(first)) * count
    figure = Figure(figsize=(16, height), layout="constrained")
    grid = figure.add_gridspec(2 * count, 3, width_ratios=(3, 2, 2))
    methods: list[str] = []
    for line, (temperature, rows) in enumerate(result.rows.items()):
        groups = list(dict.fromkeys((row.prompt_file, row.category) for row in rows))
        methods = list(dict.fromkeys(row.method for row in rows if row.method != BASELINE))
        place = slice(2 * line, 2 * line + 2)
        speed = figure.add_subplot(grid[place, 0])
        draw_speedups(speed, rows, groups, methods)
        speed.set_title(f"Speed-up at temperature {temperature:g}", fontsize="medium", pad=12)
        acceptance = figure.add_subplot(grid[place, 1])
        draw_acceptance(acceptance, [row for row in rows if row.category == ALL], methods)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    _draw_costs(figure.add_subplot(grid[:count, 2]), result.costs, methods)
    _draw_fits(figure.add_subplot(grid[count:, 2]), result.rows, methods)
    columns = min(len(labels), _LEGEND_COLUMNS)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=120)


def _draw_fits(axes: "Axes", rows: Mapping[float, Sequence[BenchRow]], methods: list[str]) -> None:
    """Bars of every fit at every temperature, over all prompts."""
    fits = [(temperature, fit) for temperature, each in rows.items() for fit in pooled_fits(each)]
    colors = [COLORS[methods.index(fit.row.method) % len(COLORS)] for _, fit in fits]
    bars = axes.barh(range(len(fits)), [fit.speedup or 0.0 for _, fit in fits], color=colors)
    axes.bar_label(bars, fmt="%.2fx", padding=3, fontsize="small")
    axes.axvline(1.0, color="black", linewidth=1, linestyle="--")
    names = [f"{fit.row.method}, T = {temperature:g}" for temperature, fit in fits]
    axes.set_yticks(range(len(fits)), names)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlim(left=0.0)
    axes.set_xlabel("tokens/s over the base's")
    axes.set_title("Parallel fits over their bases", fontsize="medium", pad=12)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_costs(axes: "Axes", costs: Mapping[str, DraftCost], methods: list[str]) -> None:
    for method, cost in costs.items():
        color = COLORS[methods.index(method) % len(COLORS)]
        axes.plot(cost.lengths, cost.relative, marker="o", color=color)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_box_aspect(1)
    axes.set_anchor("N")
    axes.set_xlabel("tokens of the draft")
    axes.set_ylabel("cost over one token's")
    axes.set_title("Cost of a draft", fontsize="medium", pad=12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)

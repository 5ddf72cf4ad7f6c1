"""Draws the benchmark of drafters that fill masks: speed, acceptance, cost of a draft."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from specrt.eval.bench import BASELINE
from specrt.eval.draft_cost import DraftCost
from specrt.eval.parallelspec import ParallelSpecRun
from specrt.eval.plot import COLORS, draw_acceptance, draw_speedups
from specrt.eval.report import ALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_parallelspec(result: ParallelSpecRun, title: str, path: Path) -> None:
    """One line of pictures for each temperature, and the cost of drafts beside them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5 * len(result.runs)), layout="constrained")
    grid = figure.add_gridspec(len(result.runs), 3, width_ratios=(3, 2, 2))
    methods: list[str] = []
    for line, (temperature, rows) in enumerate(result.rows.items()):
        groups = list(dict.fromkeys((row.prompt_file, row.category) for row in rows))
        methods = list(dict.fromkeys(row.method for row in rows if row.method != BASELINE))
        speed = figure.add_subplot(grid[line, 0])
        draw_speedups(speed, rows, groups, methods)
        speed.set_title(f"Speed-up at temperature {temperature:g}", fontsize="medium", pad=12)
        acceptance = figure.add_subplot(grid[line, 1])
        draw_acceptance(acceptance, [row for row in rows if row.category == ALL], methods)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    _draw_costs(figure.add_subplot(grid[0, 2]), result.costs, methods)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=120)


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

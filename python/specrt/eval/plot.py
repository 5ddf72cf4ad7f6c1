"""Draws a benchmark: speed-up by group of prompts, acceptance by draft position."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from specrt.eval.bench import BASELINE
from specrt.eval.report import ALL, BenchRow
from specrt.eval.table import group_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
COLORS = (
    *("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple"),
    *("tab:brown", "tab:pink", "tab:gray", "tab:olive", "tab:cyan"),
)
_GROUP_HEIGHT = 0.8  # of all bars of a group; groups are 1 apart
_MAX_BAR_HEIGHT = 0.4
_INCHES_PER_BAR = 0.24


def check_plot(path: Path, methods: Sequence[str]) -> None:
    """Refuses a plot that `draw` could not make.

    Raises:
        ValueError: the suffix or the methods do not fit, or matplotlib is not installed.
    """
    if path.suffix not in PLOT_SUFFIXES:
        raise ValueError(f"a plot must end in {', '.join(PLOT_SUFFIXES)}, not {path.name!r}")
    if BASELINE not in methods or len(methods) < 2:
        raise ValueError(f"a plot needs {BASELINE} and another method to compare with it")
    if find_spec("matplotlib") is None:
        raise ValueError("a plot needs matplotlib: pip install 'specrt[bench]'")


def draw(rows: Sequence[BenchRow], title: str, path: Path) -> None:
    """Draws the rows of a run and writes the picture in the format of its suffix.

    Uses matplotlib's `Figure` alone, so that no display is opened.
    """
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys((row.prompt_file, row.category) for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows if row.method != BASELINE))
    bars = max(8, len(groups) * (len(methods) + 1))
    figure = Figure(figsize=(11, 2 + _INCHES_PER_BAR * bars), layout="constrained")
    speed, acceptance = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_speedups(speed, rows, groups, methods)
    draw_acceptance(acceptance, [row for row in rows if row.category == ALL], methods)
    handles, labels = speed.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.15)


def draw_speedups(
    axes: "Axes",
    rows: Sequence[BenchRow],
    groups: Sequence[tuple[str, str]],
    methods: Sequence[str],
) -> None:
    """Bars of every method for every group, (prompt file, category)."""
    by_place = {(row.prompt_file, row.category, row.method): row for row in rows}
    height = min(_MAX_BAR_HEIGHT, _GROUP_HEIGHT / max(1, len(methods)))
    for number, method in enumerate(methods):
        values = [by_place[*group, method].speedup_vs_autoregressive or 0.0 for group in groups]
        places = [i + (number - (len(methods) - 1) / 2) * height for i in range(len(groups))]
        color = COLORS[number % len(COLORS)]
        bars = axes.barh(places, values, height, label=method, color=color)
        over_line = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.bar_label(bars, fmt="%.2fx", padding=3, fontsize="small", bbox=over_line)
    axes.axvline(1.0, color="black", linewidth=1, linestyle="--", label=BASELINE)
    files = {row.prompt_file for row in rows if row.category != ALL}
    names = [group_name(by_place[*group, BASELINE], len(files)) for group in groups]
    axes.set_yticks(range(len(groups)), names)
    axes.set_ylim(len(groups) - 0.4, -0.6)  # the first on top
    axes.margins(x=0.12)
    axes.set_xlim(left=0.0)
    axes.set_xlabel(f"tokens/s over {BASELINE}")
    axes.set_title("Speed-up (group: prompts)", fontsize="medium", pad=12)
    axes.spines[["top", "right"]].set_visible(False)


def draw_acceptance(axes: "Axes", rows: Sequence[BenchRow], methods: Sequence[str]) -> None:
    """Share of rounds by draft position; `rows` has one row for every method."""
    from matplotlib.ticker import MaxNLocator

    for number, method in enumerate(methods):
        shares = next(row.accepted_at_position for row in rows if row.method == method)
        if not shares:  # never drafted; an empty line that is not clipped has no place
            continue
        color = COLORS[number % len(COLORS)]
        axes.plot(range(1, len(shares) + 1), shares, marker="o", color=color, clip_on=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_ylim(0.0, 1.0)
    axes.set_box_aspect(1)
    axes.set_anchor("N")
    axes.set_xlabel("draft position")
    axes.set_ylabel("share of rounds")
    axes.set_title("Draft accepted up to here, all prompts", fontsize="medium", pad=12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)

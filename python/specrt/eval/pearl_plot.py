"""Draws the benchmark of PEARL: speed-up by task, bundles below and paces beside each other."""

from collections.abc import Sequence
from pathlib import Path

from specrt.eval.bench import BASELINE
from specrt.eval.pearl import PearlRun
from specrt.eval.plot import draw_speedups


def draw_pearl(runs: Sequence[PearlRun], title: str, path: Path) -> None:
    """One picture for each run; all of a bundle stand in one line."""
    from matplotlib.figure import Figure

    bundles = list(dict.fromkeys(each.bundle for each in runs))
    columns = len(runs) // len(bundles)
    figure = Figure(figsize=(6 * columns, 9 * len(bundles)), layout="constrained")
    pictures = figure.subplots(len(bundles), columns, squeeze=False)
    for each, axes in zip(runs, pictures.flat, strict=True):
        groups = list(dict.fromkeys((row.prompt_file, row.category) for row in each.rows))
        methods = [name for name in each.run.options.methods if name != BASELINE]
        draw_speedups(axes, each.rows, groups, methods)
        axes.set_title(f"{each.bundle}: {each.label}", fontsize="medium", pad=12)
    handles, labels = pictures.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=120)

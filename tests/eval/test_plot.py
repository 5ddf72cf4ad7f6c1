"""The picture of a benchmark: what is refused, and what is in it."""

import dataclasses
from pathlib import Path

import matplotlib
import pytest
from bench_samples import BASELINE, DRAFTED, run
from matplotlib.figure import Figure
from specrt.eval import plot
from specrt.eval.report import bench_rows

METHODS = ("autoregressive", "speculative")


@pytest.mark.parametrize("suffix", plot.PLOT_SUFFIXES)
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plot{suffix}"
    plot.check_plot(path, METHODS)
    plot.draw(bench_rows(run(BASELINE, DRAFTED)), "title", path)
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert path.read_bytes().startswith(begins[suffix])


def test_what_is_drawn(tmp_path: Path) -> None:
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        plot.draw(bench_rows(run(BASELINE, DRAFTED)), "the machine", tmp_path / "plot.svg")
    svg = (tmp_path / "plot.svg").read_text()
    for text in (
        *("the machine", "autoregressive", "speculative", "f (c): 1", "g (c): 1", "all: 2"),
        *("1.00x", "4.00x", "2.50x", "draft position", "100%"),
    ):
        assert f">{text}<" in svg, text


def test_a_method_that_drafts_nothing(tmp_path: Path) -> None:
    same = dataclasses.replace(BASELINE)
    plot.draw(bench_rows(run(BASELINE, same)), "title", tmp_path / "plot.png")
    named = dataclasses.replace(BASELINE, method="ngram")
    plot.draw(bench_rows(run(BASELINE, named)), "title", tmp_path / "plot.png")


def test_a_method_that_drafts_nothing_has_no_line() -> None:
    """An empty one would take the place of the axes from the layout."""
    named = dataclasses.replace(BASELINE, method="ngram")
    rows = [row for row in bench_rows(run(BASELINE, DRAFTED, named)) if row.category == "all"]
    axes = Figure().subplots()
    plot.draw_acceptance(axes, rows, ("speculative", "ngram"))
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("name", "methods", "message"),
    [
        ("plot.jpg", METHODS, r"\.png, \.svg, \.pdf, not 'plot\.jpg'"),
        ("plot", METHODS, r"\.png"),
        ("plot.png", ("speculative", "ngram"), "needs autoregressive"),
        ("plot.png", ("autoregressive",), "another method"),
    ],
)
def test_plots_that_cannot_be_made(name: str, methods: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot.check_plot(Path(name), methods)


def test_matplotlib_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None if name == "matplotlib" else 1)
    with pytest.raises(ValueError, match=r"pip install 'specrt\[bench\]'"):
        plot.check_plot(Path("plot.png"), METHODS)

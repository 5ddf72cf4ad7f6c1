"""Output files are refused before anything runs."""

from pathlib import Path

import pytest
from specrt.eval.output_files import check_output_files, with_name_inside


def test_files_that_can_be_written(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("")
    check_output_files({"--a": [old], "--b": [tmp_path / "x", tmp_path / "y"]}, [tmp_path / "in"])


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("a", "none/b", "no folder .*none for --b"),
        ("a", ".", "--b must name a file"),
        ("a", "./sub/../a", "--b would overwrite .*a of --a"),
        ("in", "b", "--a would overwrite the input .*in"),
    ],
)
def test_files_that_cannot(tmp_path: Path, a: str, b: str, message: str) -> None:
    (tmp_path / "sub").mkdir()
    outputs = {"--a": [tmp_path / a], "--b": [tmp_path / b]}
    with pytest.raises(ValueError, match=message):
        check_output_files(outputs, [tmp_path / "in"])


def test_name_inside() -> None:
    assert with_name_inside(Path("x/a.jsonl"), "ngram+b") == Path("x/a.ngram+b.jsonl")
    assert with_name_inside(Path("a"), "b") == Path("a.b")

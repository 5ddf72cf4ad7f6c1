"""The test prompts and the tool that selects them."""

import gzip
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ROOT / "tests" / "data" / "prompts.jsonl.gz"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """Load the script as a module."""
    path = ROOT / "tools" / "make_test_prompts.py"
    spec = importlib.util.spec_from_file_location("make_test_prompts", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a gzipped JSON-lines file."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).split(b"\n") if line]


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write JSON lines, gzipped if the name says so."""
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def rows_of(name: str, count: int, category: str = "chat") -> list[dict[str, str]]:
    """Rows with prompts of their own."""
    return [
        {"id": f"{name}-{i}", "category": category, "prompt": f"{name} {i}", "reference": "x"}
        for i in range(count)
    ]


def test_prompts_of_the_repository() -> None:
    """200 different prompts of bounded length, no category left out by licence, no time stamp."""
    rows = read(PROMPTS)
    assert len(rows) == 200
    assert all(row.keys() == {"id", "category", "prompt"} for row in rows)
    assert all(0 < len(row["prompt"]) <= 2500 for row in rows)
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == 200
    assert not any("summarization" in row["category"] for row in rows)
    assert PROMPTS.read_bytes()[4:8] == bytes(4)


def test_shares_are_even(tool: ModuleType) -> None:
    """Small files give all they have, the rest is dealt out evenly."""
    assert tool.shares([100, 2, 100, 100], 20) == [6, 2, 6, 6]
    assert tool.shares([100, 100, 100], 10) == [4, 3, 3]
    assert tool.shares([1, 0, 2], 10) == [1, 0, 2]


def test_selection(tool: ModuleType, tmp_path: Path) -> None:
    """Exclusions by file and category, long prompts, repeated prompts, both file types."""
    long = {"id": "long", "category": "chat", "prompt": "x" * 2501}
    news = rows_of("news", 3, "summarization")
    write_rows(tmp_path / "a.jsonl", [*rows_of("a", 6), long, *news])
    write_rows(tmp_path / "b.jsonl.gz", [*rows_of("a", 2), *rows_of("b", 4)])
    write_rows(tmp_path / "cnndm.jsonl.gz", rows_of("c", 9))
    write_rows(tmp_path / "t0_subset.jsonl", rows_of("t", 9))
    chosen = tool.select(tool.read_files(tmp_path), 6)
    assert [row["id"] for row in chosen] == ["a-0", "a-2", "a-4", "b-0", "b-1", "b-2"]
    assert chosen[0].keys() == {"id", "category", "prompt"}


def test_output_is_repeatable(tool: ModuleType, tmp_path: Path) -> None:
    """The same rows give the same bytes, and read back."""
    rows = [{"id": "1", "category": "chat", "prompt": "Größe\u2028日本"}]
    for name in "ab":
        tool.write_prompts(tmp_path / name, rows)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read(tmp_path / "a") == rows

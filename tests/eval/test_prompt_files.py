"""Prompt files: their rows, and what is wrong with them."""

import gzip
import json
from pathlib import Path

import pytest
from specrt.eval.prompts import Prompt, read_prompts

ROWS = [
    {"id": "a", "category": "math", "prompt": "1+1?"},
    {"turns": ["first", "second"]},
    {"question_id": 81, "prompt": "naïve", "reference": "answer"},
    {"prompt": "2+2?", "reference": ["4", "four"]},
]


def written(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["some.jsonl", "some.jsonl.gz"])
def test_rows(tmp_path: Path, name: str) -> None:
    text = "\n\n".join(json.dumps(row) for row in ROWS)
    path = written(tmp_path / name, text)
    assert read_prompts(path) == [
        Prompt("1+1?", "a", "math", "some", index=0),
        Prompt("first", "", "some", "some", index=1, follow_ups=("second",)),
        Prompt("naïve", 81, "some", "some", index=2, references=("answer",)),
        Prompt("2+2?", "", "some", "some", index=3, references=("4", "four")),
    ]
    assert len(read_prompts(path, limit=2)) == 2


@pytest.mark.parametrize(
    "line",
    [
        *("{", "[]", "{}", '{"prompt": 3}', '{"prompt": ""}'),
        *('{"turns": []}', '{"turns": "x"}', '{"turns": ["x", 3]}', '{"turns": ["x", ""]}'),
    ],
)
def test_the_line_of_a_bad_row_is_named(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "p.jsonl", f'{{"prompt": "good"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"p\.jsonl:2: "):
        read_prompts(path)


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "empty.jsonl", "broken.jsonl.gz", "cut.jsonl.gz"]
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    written(tmp_path / "empty.jsonl", "\n")
    (tmp_path / "broken.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "x"}' * 99)[:-9])
    with pytest.raises(ValueError, match=name.split(".")[0]):
        read_prompts(tmp_path / name)

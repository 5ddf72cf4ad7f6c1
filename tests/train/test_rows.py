"""Training rows and validation prompts of every kind."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from small_models import write_tiny
from specrt.tokenizer import Tokenizer
from specrt.train import rows, validation
from specrt.train.data import Example
from specrt.train.generate import Scored, save_shard

END = 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(write_tiny(tmp_path_factory.mktemp("model"), 1, 16, 1))


def test_every_kind_of_row(tmp_path: Path, tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode_chat([{"role": "user", "content": "count one"}])
    answer = tokenizer.encode("two three")
    lines = [
        {"id": 1, "prompt": "count one", "response": "two three"},
        {"prompt": "count one", "text": "two three", "token_ids": [*answer, END]},
        {"text": "one two", "source": "somewhere"},
    ]
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n".join(json.dumps(line) for line in lines) + "\n\n")
    read = [rows.example_of(one) for one in rows.read_examples([path], tokenizer, END, 100)]
    for chat in read[:2]:
        assert chat.start == len(prompt)
        assert chat.ids.tolist() == [*prompt, *answer, END]
    assert (read[2].start, read[2].ids.tolist()) == (0, [*tokenizer.encode("one two"), END])


def test_long_rows_are_cut(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path, shard = tmp_path / "rows.jsonl", tmp_path / "answers-0000.npz"
    text = " ".join(["one two three four"] * 20)
    lines = [{"prompt": "count", "response": text}, {"prompt": text, "response": "one"}]
    path.write_text("\n".join(json.dumps(line) for line in [*lines, {"text": text}]))
    ids, k = np.arange(50, dtype=np.int32), 16
    tops = np.zeros((20, k), dtype=np.uint16), np.zeros((20, k), dtype=np.float16)
    save_shard(shard, [Scored(Example(ids, 30), *tops), Scored(Example(ids[:50], 30), *tops)])
    read = rows.read_examples([path, shard], tokenizer, END, 40)
    lengths = [len(rows.example_of(one).ids) for one in read]
    assert max(lengths) == 40
    starts = [rows.example_of(one).start for one in read]
    assert starts.count(0) == -(-(len(tokenizer.encode(text)) + 1) // 40)  # text in pieces
    assert len([one for one in starts if 0 < one < 30]) == 1  # the long prompt is left out
    scored = [one for one in read if isinstance(one, Scored)]
    assert [len(one.top_ids) for one in scored] == [10, 10]


def test_held_out_rows_are_not_trained_on() -> None:
    made = [Example(np.array([index, index, 5, 6], dtype=np.int32), 2) for index in range(40)]
    kept, prompts = validation.hold_out(made, 16)
    assert len(prompts) == 4
    assert {one.ids[0] for one in map(rows.example_of, kept)} == set(range(40)) - {
        one[0] for one in prompts
    }
    with pytest.raises(ValueError, match="a second one is needed"):
        validation.hold_out(made[:1], 4)


def test_validation_prompts_of_files(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": "one " * n}) + "\n" for n in (1, 2, 90, 3)))
    prompts = validation.file_prompts([path], tokenizer, 3, 60)
    assert prompts == [
        tokenizer.encode_chat([{"role": "user", "content": "one " * n}]) for n in (1, 2)
    ]
    with pytest.raises(ValueError, match="no validation prompt is at most 2 tokens"):
        validation.file_prompts([path], tokenizer, 3, 2)

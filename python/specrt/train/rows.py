"""Training rows of any target: JSONL files and shards of scored answers, as token examples.

A JSONL row is one of
    {"prompt", "response"}              a conversation of one turn
    {"prompt", "token_ids", ...}        the target's own answer, as `specrt generate --jsonl` writes
    {"text"}                            running text
and may come gzipped. A `.npz` shard is what `specrt.train.generate` writes: answers whose tokens
have the target's best tokens beside them, so that the target need not run again.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from specrt.build.errors import BuildError
from specrt.build.tokenizer import check_same_vocabulary, copy_tokenizer, read_vocabulary
from specrt.tokenizer import Tokenizer
from specrt.train.data import Example
from specrt.train.generate import Scored, load_shard

Row = Example | Scored


def example_of(row: Row) -> Example:
    """The tokens of a row, whether it is scored or not."""
    return row.example if isinstance(row, Scored) else row


def read_examples(
    files: Sequence[Path], tokenizer: Tokenizer, end_token: int, longest: int
) -> list[Row]:
    """Examples of all files, in order; responses end with `end_token`.

    Examples are cut to `longest` tokens; a row whose prompt leaves no answer in them is left out.

    Raises:
        ValueError: a file cannot be read, or a row is none of the kinds; the message has its line.
    """
    examples: list[Row] = []
    for path in files:
        try:
            if path.suffix == ".npz":
                examples += [one for row in load_shard(path) if (one := _cut_scored(row, longest))]
            else:
                examples += _read_jsonl(path, tokenizer, end_token, longest)
        except (OSError, EOFError, UnicodeDecodeError, KeyError, BadZipFile) as error:
            raise ValueError(f"cannot read training rows from {path}: {error}") from None
    if not examples:
        names = ", ".join(str(path) for path in files)
        raise ValueError(f"no row of {names} has an answer within {longest} tokens")
    return examples


def shared_tokenizer(target: Path, draft: Path, work: Path) -> Tokenizer:
    """The tokenizer of two Hugging Face folders, as a bundle would have it; kept in `work`.

    Raises:
        BuildError: `target` has none, or `draft` has another one.
    """
    tokens = read_vocabulary(target, sys.maxsize)
    if tokens is None:
        raise BuildError(f"{target} has no tokenizer.json; training rows are text")
    others = read_vocabulary(draft, sys.maxsize)
    if others is not None:
        check_same_vocabulary(tokens, others)
    copy_tokenizer(target, work)
    return Tokenizer(work)


def check_tokens(rows: Sequence[Row], vocab: int) -> None:
    """Raise ValueError if a row has a token that a vocabulary of `vocab` tokens lacks."""
    largest = max(int(example_of(one).ids.max()) for one in rows)
    if largest >= vocab:
        raise ValueError(
            f"the data has token {largest}, and the target only {vocab} tokens; "
            "it was made with another tokenizer"
        )


def _read_jsonl(path: Path, tokenizer: Tokenizer, end_token: int, longest: int) -> list[Example]:
    opened = gzip.open if path.suffix == ".gz" else open
    examples: list[Example] = []
    with opened(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                example = _encode(_parse(line, f"{path}:{number}"), tokenizer, end_token)
                examples += _cut(example, longest)
    return examples


def _parse(line: str, at: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{at}: this line is not JSON") from None
    if isinstance(row, dict):
        texts = all(isinstance(row.get(key, ""), str) for key in ("prompt", "response", "text"))
        ids = row.get("token_ids", [])
        tokens = isinstance(ids, list) and all(isinstance(one, int) and one >= 0 for one in ids)
        answered = "prompt" in row and ("response" in row or "token_ids" in row)
        if texts and tokens and (answered or ("text" in row and "prompt" not in row)):
            return row
    raise ValueError(
        f'{at}: a row needs "prompt" and "response" (texts), "prompt" and "token_ids", or "text"'
    )


def _encode(row: dict[str, Any], tokenizer: Tokenizer, end_token: int) -> Example:
    if "prompt" not in row:
        return Example(_array([*tokenizer.encode(row["text"]), end_token]), 0)
    if tokenizer.has_chat_template:
        prompt = tokenizer.encode_chat([{"role": "user", "content": row["prompt"]}])
    else:
        prompt = tokenizer.encode(row["prompt"])
    answer = row.get("token_ids")
    if answer is None:
        answer = [*tokenizer.encode(row["response"], add_special_tokens=False), end_token]
    return Example(_array([*prompt, *answer]), len(prompt))


def _array(ids: list[int]) -> NDArray[np.int32]:
    return np.asarray(ids, dtype=np.int32)


def _cut(example: Example, longest: int) -> list[Example]:
    """The example cut to `longest`; running text becomes several, answers may be left out."""
    if example.start > 0:
        cut = Example(example.ids[:longest], example.start)
        return [cut] if len(cut.ids) > cut.start else []
    pieces = [example.ids[at : at + longest] for at in range(0, len(example.ids), longest)]
    return [Example(piece, 0) for piece in pieces if len(piece) >= 2]


def _cut_scored(row: Scored, longest: int) -> Scored | None:
    start = row.example.start
    if longest <= start:
        return None
    fresh = longest - start
    return Scored(
        Example(row.example.ids[:longest], start), row.top_ids[:fresh], row.top_logp[:fresh]
    )

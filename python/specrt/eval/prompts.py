"""Prompt files: JSON lines with `prompt` or `turns`, gzip allowed."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specrt.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """One prompt, or the user's side of a conversation.

    Attributes:
        text: what the user says first.
        id: as its row has it; "" for none.
        category: with `file`, the group that its measurements join.
        file: name of its file.
        index: of its row among the file's, from 0.
        follow_ups: what the user says after each answer.
        references: answers that are right.
    """

    text: str
    id: int | str = ""
    category: str = ""
    file: str = ""
    index: int = 0
    follow_ups: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


def read_prompts(path: Path, limit: int | None = None) -> list[Prompt]:
    """Reads the first `limit` prompts of a file of rows {"prompt": text} or {"turns": [text]}.

    `id` (or Spec-Bench's `question_id`), `category` and `reference` (a text or several) are
    optional; the category of a row without one is the name of the file.

    Raises:
        ValueError: the file cannot be read, or a row is not as above; the message has its line.
    """
    prompts: list[Prompt] = []
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if limit is not None and len(prompts) >= limit:
                    break
                if line.strip():
                    prompts.append(_prompt(line, f"{path}:{number}", path, len(prompts)))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read prompts from {path}: {_reason(error)}") from None
    if not prompts:
        raise ValueError(f"{path} has no prompts")
    return prompts


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _prompt(line: str, at: str, path: Path, index: int) -> Prompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{at}: this line is not JSON") from None
    turns = _turns(row) if isinstance(row, dict) else []
    if not turns or not all(isinstance(turn, str) and turn for turn in turns):
        raise ValueError(f'{at}: a row needs "prompt" (text) or "turns" (a list of texts)')
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
    row_id = row.get("id", row.get("question_id", ""))
    return Prompt(
        turns[0],
        row_id if isinstance(row_id, int | str) else str(row_id),
        str(row.get("category", stem)),
        stem,
        index,
        tuple(turns[1:]),
        _references(row),
    )


def _turns(row: dict[str, Any]) -> list[Any]:
    if "prompt" in row:
        return [row["prompt"]]
    turns = row.get("turns")
    return turns if isinstance(turns, list) else []


def _references(row: dict[str, Any]) -> tuple[str, ...]:
    given = row.get("reference", [])
    texts = given if isinstance(given, list) else [given]
    return tuple(text for text in texts if isinstance(text, str))


def encode_prompt(tokenizer: Tokenizer, text: str, *, raw: bool = False) -> list[int]:
    """Token ids of a user's text: through the chat template where there is one, unless `raw`."""
    if raw or not tokenizer.has_chat_template:
        return tokenizer.encode(text)
    return tokenizer.encode_chat([{"role": "user", "content": text}])

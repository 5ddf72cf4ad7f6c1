"""Prompt files: JSON lines with `prompt` or `turns`, gzip allowed."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specrt.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """One prompt; `file` and `category` say which group its measurements join."""

    text: str
    id: str = ""
    category: str = ""
    file: str = ""


def read_prompts(path: Path, limit: int | None = None) -> list[Prompt]:
    """Reads the first `limit` prompts of a file of rows {"prompt": text} or {"turns": [text]}.

    Of `turns` only the first is taken. `id` and `category` are optional; the category of a row
    without one is the name of the file.

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
                    prompts.append(_prompt(line, f"{path}:{number}", path))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read prompts from {path}: {_reason(error)}") from None
    if not prompts:
        raise ValueError(f"{path} has no prompts")
    return prompts


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _prompt(line: str, at: str, path: Path) -> Prompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{at}: this line is not JSON") from None
    text = _text(row) if isinstance(row, dict) else None
    if not isinstance(text, str) or not text:
        raise ValueError(f'{at}: a row needs "prompt" (text) or "turns" (a list of texts)')
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return Prompt(text, str(row.get("id", "")), str(row.get("category", stem)), stem)


def _text(row: dict[str, Any]) -> Any:
    turns = row.get("turns")
    if "prompt" in row:
        return row["prompt"]
    return turns[0] if isinstance(turns, list) and turns else None


def encode_prompt(tokenizer: Tokenizer, text: str, *, raw: bool = False) -> list[int]:
    """Token ids of a user's text: through the chat template where there is one, unless `raw`."""
    if raw or not tokenizer.has_chat_template:
        return tokenizer.encode(text)
    return tokenizer.encode_chat([{"role": "user", "content": text}])

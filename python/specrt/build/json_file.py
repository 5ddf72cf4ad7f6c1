"""Reads JSON of unknown origin: bounded in size, objects only, no repeated keys, no NaN."""

import json
import os
from pathlib import Path
from typing import Any

from specrt.build.errors import BuildError

CONFIG_LIMIT = 1 << 20
INDEX_LIMIT = 64 << 20
TOKENIZER_LIMIT = 256 << 20


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key!r} occurs twice")
            seen.add(key)
    return result


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def parse_json(text: bytes, origin: str) -> dict[str, Any]:
    """Parse a JSON object. Raises BuildError that starts with `origin`."""
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise BuildError(f"{origin} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise BuildError(f"{origin} must hold a JSON object, not {type(value).__name__}")
    return value


def read_json(path: Path, limit: int = CONFIG_LIMIT) -> dict[str, Any]:
    """Read a JSON object of at most `limit` bytes. Raises BuildError."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            text = file.read(min(size, limit) + 1)
    except OSError as error:
        raise BuildError(f"cannot read {path}: {error.strerror}") from error
    if len(text) > limit:
        raise BuildError(f"{path} is larger than {limit} bytes; it is not what its name says")
    return parse_json(text, str(path))

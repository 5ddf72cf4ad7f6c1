"""Reads files of unknown origin, JSON above all: nothing in them can stall or crash the reader.

Only regular files are read, links to them included (the Hugging Face cache is made of links).
"""

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

MAX_DEPTH = 64  # objects and lists inside of one another
_MAX_DIGITS = 300  # of an integer: it still fits into a float


def read_bytes(path: Path, limit: int, error: type[Exception]) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises `error`."""
    try:
        content = _read_regular(path, limit + 1)
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise error(f"cannot read {path}: {reason}") from None
    if len(content) > limit:
        raise error(f"{path} is larger than {limit} bytes; it is not what its name says")
    return content


def read_json(path: Path, limit: int, error: type[Exception]) -> dict[str, Any]:
    """A JSON object from a file of at most `limit` bytes. Raises `error`."""
    return parse_json(read_bytes(path, limit, error), str(path), error)


def parse_json(text: bytes, origin: str, error: type[Exception]) -> dict[str, Any]:
    """A JSON object without repeated keys, NaN, infinities or deep nesting.

    Raises:
        Exception: `error`, with a text that starts with `origin`.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except (ValueError, RecursionError) as failure:
        raise error(f"{origin} is not valid JSON: {failure}") from None
    if not isinstance(value, dict):
        raise error(f"{origin} must hold a JSON object, not {type(value).__name__}")
    if _is_deep(value):
        raise error(f"{origin} is nested deeper than {MAX_DEPTH} levels")
    return value


def _read_regular(path: Path, most: int) -> bytes:
    # Without O_NONBLOCK, opening a pipe that nobody writes to would never return.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read(min(status.st_size + 1, most))


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


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _is_deep(value: dict[str, Any]) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True

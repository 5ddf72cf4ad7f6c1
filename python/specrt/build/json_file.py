"""Reads JSON of unknown origin, as specrt.json_file does, and raises BuildError."""

from pathlib import Path
from typing import Any

from specrt import json_file
from specrt.build.errors import BuildError

CONFIG_LIMIT = 1 << 20
INDEX_LIMIT = 64 << 20
TOKENIZER_LIMIT = 256 << 20


def parse_json(text: bytes, origin: str) -> dict[str, Any]:
    """Parse a JSON object. Raises BuildError that starts with `origin`."""
    return json_file.parse_json(text, origin, BuildError)


def read_json(path: Path, limit: int = CONFIG_LIMIT) -> dict[str, Any]:
    """Read a JSON object of at most `limit` bytes. Raises BuildError."""
    return json_file.read_json(path, limit, BuildError)

"""Hashes of files."""

import hashlib
from pathlib import Path

from specrt.build.errors import BuildError


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises BuildError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BuildError(f"cannot read {path}: {error.strerror}") from error

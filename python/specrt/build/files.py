"""Hashes of files."""

import hashlib
from pathlib import Path

from specrt.build.errors import BuildError

_HASH_CHUNK = 1 << 20


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises BuildError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BuildError(f"cannot read {path}: {error.strerror}") from error


def weights_hash(folder: Path) -> str:
    """SHA-256 of the safetensors files of a folder, one after another in the order of names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()

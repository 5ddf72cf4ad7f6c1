"""The packaged demo: a small model and its drafters, compiled on first use.

The models are the Hugging Face folders `target`, `draft` and `parallel` (which fills masks) and the
streaming adapter `streams` beside this file; README.md is their model card.
"""

import hashlib
import sys
from importlib.metadata import version
from pathlib import Path

from specrt.xdg import xdg_folder

DEMO = "demo"
_MODELS = Path(__file__).parent
_DRAFTERS = ("draft", "parallel", "streams")
_READ_BYTES = 1 << 20


def bundle_path(progress: bool = False) -> Path:
    """Folder of the demo bundle, built into the user's cache folder if it is not there.

    The name holds a hash of the models and the builder, so another version of specrt gets its own.
    Processes that build at the same time do not disturb each other: each puts an equal bundle in
    its place in one step.

    Args:
        progress: whether to say on stderr what is being built.

    Raises:
        specrt.build.BuildError: it cannot be built, for example because the disk is full.
    """
    place = cache_folder() / f"{DEMO}-{_sources_hash()[:16]}"
    if not (place / "manifest.json").is_file():
        from specrt.build import build

        if progress:
            print(f"Compiling the demo models into {place} (only this once).", file=sys.stderr)
        drafters = [_MODELS / name for name in _DRAFTERS]
        build(_MODELS / "target", draft=drafters, out=place, progress=False)
    return place


def cache_folder() -> Path:
    """Where specrt keeps what it can make again: $XDG_CACHE_HOME/specrt or ~/.cache/specrt."""
    return xdg_folder("XDG_CACHE_HOME", ".cache")


def _sources_hash() -> str:
    """SHA-256 of what a bundle depends on: the version, the models and the builder."""
    digest = hashlib.sha256(version("specrt").encode())
    builder = _MODELS.parent / "build"
    models = [path for name in ("target", *_DRAFTERS) for path in _MODELS.glob(f"{name}/*")]
    files = [*models, *builder.rglob("*.py")]
    for path in sorted(files):
        digest.update(str(path.relative_to(_MODELS.parent)).encode())
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
    return digest.hexdigest()

"""Finds a model: a local Hugging Face folder, or a download from the Hugging Face hub."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specrt.build.errors import BuildError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_PATTERNS = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
]


@dataclass(frozen=True)
class Source:
    """A model folder on this machine. `revision` is the hub's commit, None for a local folder."""

    model: str  # as the user named it
    folder: Path
    revision: str | None


def _download(model: str, *, progress: bool) -> Source:
    """Fetch config, tokenizer and safetensors of a hub id. Raises BuildError."""
    from huggingface_hub import snapshot_download
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        """A bar that obeys `progress`, and is off where stderr is not a terminal."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **(kwargs | {"disable": None if progress else True}))

    try:
        folder = Path(snapshot_download(model, allow_patterns=_PATTERNS, tqdm_class=Bar))
    except Exception as error:  # whatever the HTTP client beneath raises is the same to the user
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BuildError(
            f"{model!r} is not a folder on this machine, and fetching it from the Hugging Face hub "
            f"failed: {reason[0]} Check the name and the network, log in if the model is gated "
            "(hf auth login), or give the path of a downloaded folder"
        ) from error
    return Source(model, folder, folder.name)


def find_model(model: str | os.PathLike[str], *, progress: bool) -> Source:
    """Resolve a folder or hub id; downloads land in the Hugging Face cache. Raises BuildError."""
    name = os.fspath(model)
    folder = Path(name)
    if folder.is_dir():
        return Source(name, folder, None)
    if folder.exists():
        raise BuildError(f"{name!r} is a file; give the folder that holds config.json")
    if not isinstance(model, str) or not _HUB_ID.fullmatch(name):
        raise BuildError(f"there is no folder {name!r}")
    return _download(name, progress=progress)

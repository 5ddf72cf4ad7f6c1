"""Where a user's files go: the XDG base directories."""

import os
from pathlib import Path


def xdg_folder(variable: str, fallback: str) -> Path:
    """The folder `specrt` below $`variable`, or below `fallback` in the home folder without it.

    A relative path in the variable counts as none, as the specification asks.
    """
    base = Path(os.environ.get(variable, ""))
    return (base if base.is_absolute() else Path.home() / fallback) / "specrt"

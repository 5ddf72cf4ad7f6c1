"""Bundles on disk: the manifest, what may be replaced, and verification."""

import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from specrt.build.errors import BuildError
from specrt.build.files import file_sha256
from specrt.build.json_file import read_json

MANIFEST = "manifest.json"
FORMAT = "specrt-bundle"
TENSORRT_LLM_FORMAT = "specrt-tensorrt-llm"  # folders of specrt.trtllm
FORMAT_VERSION = 1


def specrt_version() -> str:
    """Version of the installed package."""
    try:
        return version("specrt")
    except PackageNotFoundError:
        return "unknown"


def read_manifest(bundle: Path) -> dict[str, Any]:
    """Read and check the manifest of a bundle. Raises BuildError."""
    path = bundle / MANIFEST
    if not path.exists():
        raise BuildError(f"{bundle} is not a specrt bundle: it has no {MANIFEST}")
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise BuildError(f"{bundle} is not a specrt bundle: its {MANIFEST} is another program's")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise BuildError(
            f"{bundle} has bundle format {manifest.get('format_version')}, not {FORMAT_VERSION}; "
            f"build it again: {manifest.get('command')}"
        )
    return manifest


def write_manifest(bundle: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest; a folder without one is not a bundle, so it is written last."""
    text = json.dumps(manifest, indent=2) + "\n"
    with (bundle / MANIFEST).open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def engine_entries(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Entries of the manifest that have `file`, `bytes` and `sha256`: target, then drafters."""
    return [manifest["target"], *manifest["drafters"]]


def verify(bundle: str | os.PathLike[str]) -> dict[str, Any]:
    """Hash the engines of a bundle again and return its manifest.

    Raises BuildError that names the first file that is missing or differs.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    try:
        engines = [(entry["file"], entry["sha256"]) for entry in engine_entries(manifest)]
    except (KeyError, TypeError) as error:
        raise BuildError(f"{folder / MANIFEST} lacks {error}; build the bundle again") from error
    root = folder.resolve()
    for file, expected in engines:
        try:
            path = (root / str(file)).resolve()
        except (OSError, RuntimeError, ValueError):  # a loop of links, or a zero byte
            path = Path()
        if not path.is_relative_to(root):
            raise BuildError(f"{folder / MANIFEST} names {file!r}, which is outside the bundle")
        if file_sha256(path) != expected:
            raise BuildError(
                f"{folder / str(file)} is not the file that was built; build the bundle again: "
                f"{manifest.get('command')}"
            )
    return manifest


def check_replaceable(out: Path) -> None:
    """Raise BuildError unless `out` is free, an empty folder, or a folder that specrt built."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = read_json(out / MANIFEST)
    except BuildError:
        manifest = {}
    if manifest.get("format") not in (FORMAT, TENSORRT_LLM_FORMAT):
        raise BuildError(f"{out} exists and is not a specrt bundle; choose another output")

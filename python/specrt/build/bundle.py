"""Bundles on disk: the manifest, building beside the final place, and verification."""

import fcntl
import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from specrt.build.errors import BuildError
from specrt.build.files import file_sha256
from specrt.build.json_file import read_json

MANIFEST = "manifest.json"
LOCK = "lock"
FORMAT = "specrt-bundle"
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
        path = (root / str(file)).resolve()
        if not path.is_relative_to(root):
            raise BuildError(f"{folder / MANIFEST} names {file!r}, which is outside the bundle")
        if file_sha256(path) != expected:
            raise BuildError(
                f"{folder / str(file)} is not the file that was built; build the bundle again: "
                f"{manifest.get('command')}"
            )
    return manifest


def check_replaceable(out: Path) -> None:
    """Raise BuildError unless `out` is free, an empty folder, or a bundle."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = read_json(out / MANIFEST)
    except BuildError:
        manifest = {}
    if manifest.get("format") != FORMAT:
        raise BuildError(f"{out} exists and is not a specrt bundle; choose another output")


def _move_into_place(built: Path, out: Path) -> None:
    """Rename a finished folder to `out`; what was there returns if that fails."""
    check_replaceable(out)
    if not out.exists():
        built.rename(out)
        return
    old = built.with_suffix(".old")
    out.rename(old)
    try:
        built.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _lock(partial: Path) -> IO[bytes]:
    """Mark a temporary folder as in use for as long as the file stays open."""
    file = (partial / LOCK).open("xb")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _remove_abandoned(out: Path) -> None:
    """Remove temporary folders of builds of `out` that were killed: nobody holds their lock."""
    for lock in out.parent.glob(f".{glob.escape(out.name)}.*.partial/{LOCK}"):
        with suppress(OSError), lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)


@contextmanager
def staged(out: Path, size: int) -> Iterator[Path]:
    """Give a temporary folder beside `out` that becomes `out` when the block succeeds.

    `size` bytes must be free. If the block fails, nothing is left behind. A killed process leaves
    a hidden folder `.NAME.*.partial`, which the next build of `out` removes. OSErrors become
    BuildError.
    """
    partial = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out)
        free = shutil.disk_usage(out.parent).free
        if free < size:
            raise BuildError(f"{out} needs {size} bytes, but only {free} are free there")
        partial.mkdir()
        with _lock(partial):
            yield partial
            _move_into_place(partial, out)
            (out / LOCK).unlink()
    except OSError as error:
        raise BuildError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)

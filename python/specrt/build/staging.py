"""Building beside the final place: a bundle appears whole or not at all.

A new bundle is written into a hidden folder beside its place and renamed; an old one is exchanged
for it in one step, so that there is a bundle at every moment. Files of a bundle are never written
in place: a process that has mapped one keeps what it has.
"""

import ctypes
import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from specrt.build.bundle import check_replaceable
from specrt.build.errors import BuildError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS)  # of file systems that cannot do it


@contextmanager
def staged(out: Path, size: int) -> Iterator[Path]:
    """Give a temporary folder beside `out` that becomes `out` when the block succeeds.

    `size` bytes must be free. If the block fails, nothing is left behind. A killed process leaves
    a hidden folder `.NAME.*.partial`, which the next build of `out` removes. OSErrors become
    BuildError.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out)
        free = shutil.disk_usage(out.parent).free
        if free < size:
            raise BuildError(f"{out} needs {size} bytes, but only {free} are free there")
        with _partial(out) as partial:
            yield partial
            _move_into_place(partial, out)
    except OSError as error:
        raise BuildError(f"cannot write {out}: {error.strerror or error}") from error


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, locked while it is in use and removed in the end."""
    partial = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    handle = -1
    try:
        while handle < 0:
            partial.mkdir()
            handle = _lock(partial)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if handle >= 0:
            os.close(handle)


def _lock(partial: Path) -> int:
    """Lock a new folder; -1 if another build has found it before that and removed it."""
    try:
        handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return -1
    with suppress(OSError):  # some network file systems have no locks; nobody removes it there
        fcntl.flock(handle, fcntl.LOCK_EX)
    if partial.exists():
        return handle
    os.close(handle)
    return -1


def _remove_abandoned(out: Path) -> None:
    """Remove temporary folders of builds of `out` that were killed: nobody holds their lock."""
    for partial in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        with suppress(OSError):
            handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial)
            finally:
                os.close(handle)


def _move_into_place(partial: Path, out: Path) -> None:
    """Rename a finished folder to `out`; a bundle there takes its name."""
    try:
        partial.rename(out)  # where nothing is, or an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        check_replaceable(out)
        _exchange(partial, out)


def _exchange(a: Path, b: Path) -> None:
    """Exchange the names of two folders: renameat2 of Linux, which Python does not offer."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(a), os.fsencode(b)
    if library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number not in _NO_EXCHANGE:
        raise OSError(number, os.strerror(number))
    old = a.with_suffix(".old")  # where the old bundle is found if the process is killed here
    b.rename(old)
    try:
        a.rename(b)
    except OSError:
        old.rename(b)
        raise
    old.rename(a)

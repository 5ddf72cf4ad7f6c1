"""A disk that fills up at any moment of a build: one line of error, and nothing is half-made."""

import errno
import io
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt.build import BuildError, build, staging
from specrt.build.bundle import verify
from specrt.eval import curves


class Disk:
    """Counts what needs room on a disk; from operation `full_at` on there is none."""

    def __init__(self, full_at: int) -> None:
        self.full_at = full_at
        self.operations = 0

    def use(self) -> None:
        self.operations += 1
        if self.operations >= self.full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opener(self) -> Callable[..., Any]:
        """An `io.open` whose writes go through `use`."""
        disk, real_open = self, io.open

        class File(io.FileIO):
            def write(self, data: Any, /) -> int:
                disk.use()
                return super().write(data) or 0

        def open_counted(
            file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *rest: Any
        ) -> Any:
            if not set(mode) & set("wxa+"):
                return real_open(file, mode, buffering, encoding, *rest)
            disk.use()
            buffered = io.BufferedWriter(File(file, mode.replace("b", "")))
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding)

        return open_counted


@contextmanager
def filling(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Opening for writing, writes, mkdir, fsync and rename go through `disk`."""
    with monkeypatch.context() as patch:
        for name in ("mkdir", "fsync", "rename"):
            real = getattr(os, name)

            def counted(*args: Any, real: Any = real, **options: Any) -> Any:
                disk.use()
                return real(*args, **options)

            patch.setattr(os, name, counted)
        patch.setattr(io, "open", disk.opener())
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return (
        write_tiny_llama(folder / "target", TinyLlama(layers=1)),
        write_tiny_llama(folder / "draft", TinyLlama(layers=1, seed=2)),
    )


def built(models: tuple[Path, Path], out: Path, dtype: str) -> None:
    build(models[0], draft=models[1], out=out, dtype=dtype, progress=False)


@pytest.fixture(autouse=True)
def _quick_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "ROWS", (1, 2))
    monkeypatch.setattr(curves, "_PASSES", 1)


def test_a_disk_that_is_full_at_any_operation(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "bundle"
    out.parent.mkdir()
    failures = 0
    for full_at in range(1, 1000):
        disk = Disk(full_at)
        try:
            with filling(disk, monkeypatch):
                built(models, out, "f32")
            break
        except BuildError as error:
            assert str(error) == f"cannot write {out}: No space left on device"
        assert list(out.parent.iterdir()) == []
        failures += 1
    assert failures == disk.operations > 20
    assert verify(out)["curves"] is not None


def test_an_earlier_bundle_stays(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    built(models, out, "f32")
    before = verify(out)
    for full_at in range(1, 1000):
        disk = Disk(full_at)
        try:
            with filling(disk, monkeypatch):
                built(models, out, "bf16")
            break
        except BuildError as error:
            assert str(error) == f"cannot write {out}: No space left on device"
        assert verify(out) == before
        assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert verify(out)["dtype"] == "bf16"


def test_a_limit_on_the_size_of_files(models: tuple[Path, Path], tmp_path: Path) -> None:
    """The system's own error, at the same places whatever the library in between buffers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1, 1000, 20_000, 80_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(BuildError, match=r"cannot write .*bundle: File too large"):
                built(models, tmp_path / "bundle", "f32")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_cannot_exchange_folders(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        @staticmethod
        def renameat2(*_: object) -> int:
            staging.ctypes.set_errno(errno.EINVAL)
            return -1

    out = tmp_path / "bundle"
    built(models, out, "f32")
    monkeypatch.setattr(staging.ctypes, "CDLL", lambda *_, **__: Library)
    built(models, out, "bf16")
    assert verify(out)["dtype"] == "bf16"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]

"""Builds llama.cpp for this CPU from the source that the `llama-cpp-python` sdist carries.

The build is kept in a cache folder, one per CPU, since it is tuned to the machine it runs on.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from specrt.eval.peers.records import PeerError

TARGETS = ("llama-bench", "llama-completion", "llama-speculative-simple")
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
)


@dataclass(frozen=True)
class LlamaCpp:
    """A built llama.cpp: the folder of its programs and the sdist that it came from."""

    bin: Path
    source: str


def build_llamacpp(cache: Path, sdist: Path | None, jobs: int) -> LlamaCpp:
    """Download (unless `sdist` is given), unpack and build; a finished build is reused.

    Raises PeerError with the last lines of the failing step; its log stays in `cache`.
    """
    cache.mkdir(parents=True, exist_ok=True)
    archive = sdist or _cached_sdist(cache) or _download(cache)
    if not archive.exists():
        raise PeerError(f"no such file: {archive}")
    name = archive.name.removesuffix(".tar.gz")
    build = cache / f"{name}-{_cpu_key()}"
    built = LlamaCpp(build / "bin", name)
    if all((built.bin / target).exists() for target in TARGETS):
        return built
    source = _unpack(archive, cache / name) / "vendor" / "llama.cpp"
    if not source.exists():
        raise PeerError(f"{archive.name} carries no vendor/llama.cpp")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = ["cmake", "-S", str(source), "-B", str(build), *generator, *_OPTIONS]
    _run(configure, cache / f"{build.name}.configure.log")
    compile_ = ["cmake", "--build", str(build), "-j", str(jobs), "--target", *TARGETS]
    _run(["nice", "-n", "10", *compile_], cache / f"{build.name}.build.log")
    return built


def _cached_sdist(cache: Path) -> Path | None:
    found = sorted(cache.glob("llama_cpp_python-*.tar.gz"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _download(cache: Path) -> Path:
    # --no-binary for this one package: its build tools, which pip asks for metadata, stay wheels.
    package = "llama-cpp-python"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", package]
    _run([*command, "-d", str(cache), package], cache / "download.log")
    archive = _cached_sdist(cache)
    if archive is None:
        raise PeerError("pip downloaded no llama_cpp_python sdist")
    return archive


def _unpack(archive: Path, folder: Path) -> Path:
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        (partial / folder.name).rename(folder)
        partial.rmdir()
    return folder


def _run(command: list[str], log: Path) -> None:
    with log.open("w") as file:
        try:
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
        except FileNotFoundError as error:
            raise PeerError(f"{command[0]} is not installed") from error
    if code != 0:
        tail = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
        raise PeerError(f"{command[0]} failed ({code}), see {log.name}: {tail}")


def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags as Linux names them; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    found = re.search(r"^flags\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def _cpu_key() -> str:
    return hashlib.sha256(" ".join(sorted(cpu_flags())).encode()).hexdigest()[:8]

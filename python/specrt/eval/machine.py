"""The machine that measures: names, sizes, and the memory bandwidth it reaches."""

import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specrt.curves import Place

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_LARGEST_ARRAY = 1 << 30
_PASSES = 5


@dataclass(frozen=True)
class Machine:
    """What a measurement belongs to; sizes in bytes, 0 where the system does not say."""

    cpu_model: str
    cores: int  # that this process may run on
    cache_bytes: int  # of the last level
    memory_bytes: int
    system: str


def cpu_model() -> str:
    """Name of the CPU as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def place_of(backend: str, threads: int) -> Place:
    """What steps run on, by the backend's name: "cpu:ISA" or "cuda:ARCHITECTURE:GPU"."""
    kind, _, rest = backend.partition(":")
    if kind == "cpu":
        return Place(cpu_model(), threads, rest)
    architecture, _, gpu = rest.partition(":")
    return Place(gpu, 0, architecture)


def _cache_bytes() -> int:
    largest = 0
    for file in _CACHES.glob("index*/size"):
        try:
            text = file.read_text().strip()
            largest = max(largest, int(text.removesuffix("K")) * 1024)
        except (OSError, ValueError):
            continue
    return largest


def this_machine() -> Machine:
    """Facts of the machine that runs this process."""
    return Machine(
        cpu_model=cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        cache_bytes=_cache_bytes(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    )


def read_bandwidth(threads: int) -> float:
    """Bytes per second that `threads` threads read from memory, the best of several passes.

    Reads like a decoding step does: every thread streams its own part of one large array once.
    The reduction is the maximum of uint32, which NumPy runs as SIMD code without the GIL; of its
    reductions it keeps closest to the memory (sums of uint64 are bound by the core instead).
    """
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    size = max(64 << 20, min(_LARGEST_ARRAY, available // 4))
    parts = np.array_split(np.ones(size // 4, np.uint32), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_PASSES):
            begin = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - begin)
    return size / best


def source_commit() -> str | None:
    """Commit of the checkout that the package runs from, "-dirty" with changes; else None."""
    package = Path(__file__).resolve().parents[1]
    try:
        if not (package.parents[1] / ".git").exists() or package.parent.name != "python":
            return None
        git = ["git", "-C", str(package)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except OSError:
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("-dirty" if status.stdout.strip() else "")

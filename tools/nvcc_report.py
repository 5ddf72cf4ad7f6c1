"""Compiles cuda/ with nvcc, warnings as errors, and prints what each kernel takes of a GPU.

    python tools/nvcc_report.py

Exits with 1 if a kernel spills registers, unless SPILLS allows it. Without nvcc it says so and
exits with 0, or with 1 where SPECRT_REQUIRE_NVCC=1.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRESET = "cuda"
# Bytes of spill stores that a kernel may have, by its name in the table.
SPILLS: dict[str, int] = {}

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?, (\d+) bytes smem)?")
_NAMESPACES = re.compile(r"\(anonymous namespace\)::|\bspecrt::|\bcuda::|\bvoid |\((?:int|bool)\)")


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of a kernel; sizes in bytes."""

    name: str
    architecture: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    static_shared: int

    def row(self) -> list[str]:
        """Its line in the table."""
        spills = f"{self.spill_stores} / {self.spill_loads}"
        numbers = [self.registers, self.stack, spills, self.static_shared]
        return [self.name, self.architecture, *map(str, numbers)]


HEAD = ["kernel", "for", "registers", "stack", "spill stores / loads", "static shared"]


def build() -> str:
    """Compiles all of cuda/ afresh; returns the output. A compiler cache repeats its messages."""
    environment = dict(os.environ)
    if shutil.which("ccache") is not None:
        environment.setdefault("CMAKE_CXX_COMPILER_LAUNCHER", "ccache")
        environment.setdefault("CMAKE_CUDA_COMPILER_LAUNCHER", "ccache")
    output = ""
    for command in (
        ["cmake", "--preset", PRESET],
        ["cmake", "--build", "--preset", PRESET, "--clean-first"],
    ):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output += done.stdout
        if done.returncode != 0:
            raise SystemExit(output + f"failed: {' '.join(command)}")
    return output


def readable(symbols: list[str]) -> list[str]:
    """Names of kernels with their template arguments, without namespaces and parameters."""
    command = ["c++filt", *symbols]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [_NAMESPACES.sub("", name).rpartition("(")[0] for name in names]


def kernels(output: str) -> Iterator[Kernel]:
    """All kernels of a build's output, in its order."""
    parts = _ENTRY.split(output)[1:]
    names = readable(parts[0::3]) if parts else []
    for name, architecture, text in zip(names, parts[1::3], parts[2::3], strict=True):
        spill, used = _SPILL.search(text), _USED.search(text)
        if spill is None or used is None:
            raise SystemExit(f"ptxas said nothing of {name}; it was expected to (-Xptxas=-v)")
        stack, stores, loads = map(int, spill.groups())
        yield Kernel(name, architecture, int(used[1]), stack, stores, loads, int(used[2] or 0))


def table(rows: list[list[str]]) -> str:
    """Columns, the first two to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main() -> int:
    """Compiles, prints the table and what is wrong with it; returns the exit status."""
    if shutil.which("nvcc") is None:
        print("nvcc is not on the PATH; no kernel was compiled for a GPU")
        return int(os.environ.get("SPECRT_REQUIRE_NVCC") == "1")
    found = sorted(kernels(build()), key=lambda kernel: kernel.name)
    print(table([HEAD, *(kernel.row() for kernel in found)]))
    if not found:
        print("no kernels: did the build print what ptxas says (-Xptxas=-v)?")
        return 1
    spilling = [each for each in found if each.spill_stores > SPILLS.get(each.name, 0)]
    for each in spilling:
        allowed = SPILLS.get(each.name, 0)
        print(f"{each.name} spills {each.spill_stores} bytes of registers; {allowed} are allowed")
    return int(bool(spilling))


if __name__ == "__main__":
    sys.exit(main())

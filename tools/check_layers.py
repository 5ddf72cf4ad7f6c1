"""Checks the shape of the tree: include directions, file lengths, shipped sizes, state and words.

    python tools/check_layers.py

Prints every violation and exits with 1 if there is one.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# A folder of cpp/, or cuda/ and its emulation/, may include itself and these.
ALLOWED_INCLUDES = {
    "base": {"base", "specrt"},
    "device": {"base", "device"},
    "cpu": {"base", "device", "cpu"},
    "engine": {"base", "device", "engine"},
    "decode": {"base", "device", "engine", "decode", "specrt"},
    "include": {"specrt"},
    "examples": {"specrt"},
    "api": {"base", "device", "engine", "decode", "cpu", "api", "specrt"},
    "cuda": {"base", "device", "cuda"},
    "emulation": {"base", "cuda"},
}
# In cuda/ these alone may know of the emulator.
EMULATION_DOORS = {"ptx.h", "launch.h"}
MAX_LINES = 800
AIM_LINES = 500
MAX_CHECKOUT_BYTES = 56 << 20
MAX_WEIGHT_BYTES = 44 << 20
SOURCE_SUFFIXES = {".py", ".cpp", ".h", ".cu", ".cuh"}
INCLUDE = re.compile(r'^#include "([a-z0-9_]+)/', re.MULTILINE)
EMULATION_INCLUDE = re.compile(r'^#include "cuda/emulation/', re.MULTILINE)
FORBIDDEN = {
    "thread_local": re.compile(r"\bthread_local\b"),
    "unfinished work": re.compile(r"\b(TODO|FIXME|XXX|HACK)\b"),
}


def tracked_files() -> list[Path]:
    """The files that git tracks, and untracked ones that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def check_includes(path: Path, text: str) -> list[str]:
    """Include directions of one C++ or CUDA file."""
    name = path.relative_to(ROOT)
    layer = layer_of(name)
    if layer not in ALLOWED_INCLUDES:
        return []
    found = set(INCLUDE.findall(text)) - ALLOWED_INCLUDES[layer]
    if layer == "cuda" and path.name not in EMULATION_DOORS and EMULATION_INCLUDE.search(text):
        found.add("cuda/emulation")
    return [f"{name} includes {other}/" for other in sorted(found)]


def layer_of(name: Path) -> str:
    """The layer that a file belongs to; empty outside cpp/ and cuda/."""
    if name.parts[0] == "cpp":
        return name.parts[1]
    if name.parts[0] == "cuda":
        return "emulation" if name.parts[1] == "emulation" else "cuda"
    return ""


def check_source(path: Path) -> list[str]:
    """Length and words of one source file."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    lines = text.count("\n")
    problems = check_includes(path, text)
    if lines > MAX_LINES:
        problems.append(f"{name} has {lines} lines; at most {MAX_LINES}")
    elif lines > AIM_LINES:
        print(f"note: {name} has {lines} lines; aim for {AIM_LINES}")
    if path.name != Path(__file__).name:
        problems += [f"{name}: {what}" for what, rule in FORBIDDEN.items() if rule.search(text)]
    return problems


def main() -> int:
    """Runs every check."""
    files = tracked_files()
    problems = [p for f in files if f.suffix in SOURCE_SUFFIXES for p in check_source(f)]
    checkout = sum(f.stat().st_size for f in files)
    weights = sum(f.stat().st_size for f in files if f.suffix == ".safetensors")
    if checkout > MAX_CHECKOUT_BYTES:
        problems.append(f"the checkout has {checkout} bytes; at most {MAX_CHECKOUT_BYTES}")
    if weights > MAX_WEIGHT_BYTES:
        problems.append(f"shipped weights have {weights} bytes; at most {MAX_WEIGHT_BYTES}")
    for problem in problems:
        print(problem)
    print(f"checked {len(files)} files, {checkout >> 20} MiB, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

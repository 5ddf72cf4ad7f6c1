"""What a run belongs to: device, driver, commit, and a hash of the CUDA sources."""

from __future__ import annotations

import hashlib
import subprocess
from datetime import date
from pathlib import Path

_SOURCES = {".cu", ".cuh", ".h", ".cpp", ".txt"}
_QUERY = ("name", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.memory")


def cuda_hash(root: Path) -> str:
    """SHA-256 of cuda/ without the emulator: equal if and only if the kernels are the same text."""
    digest = hashlib.sha256()
    folder = root / "cuda"
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] == "emulation" or path.suffix not in _SOURCES or not path.is_file():
            continue
        content = path.read_bytes()
        digest.update(f"{name.as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else ""


def source_commit(root: Path) -> str:
    """Commit of the checkout, "-dirty" with changes; empty where git does not say."""
    git = ("git", "-c", f"safe.directory={root}", "-C", str(root))
    head = _first_line(*git, "rev-parse", "HEAD")
    if not head:
        return ""
    return head + ("-dirty" if _first_line(*git, "status", "--porcelain") else "")


def device_facts() -> dict[str, str]:
    """The first GPU as nvidia-smi tells it; empty without one."""
    line = _first_line("nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader")
    values = [value.strip() for value in line.split(",")]
    return dict(zip(_QUERY, values, strict=True)) if len(values) == len(_QUERY) else {}


def run_facts(root: Path, emulated: bool) -> dict[str, str]:
    """Everything that a results file says about where it comes from."""
    device = {} if emulated else device_facts()
    name = "emulator" if emulated else device.get("name", "no device")
    nvcc = _first_line("bash", "-c", "nvcc --version | grep release")
    return {
        "device": name,
        "driver": device.get("driver_version", ""),
        "memory": device.get("memory.total", ""),
        "max_clocks": "/".join(device.get(key, "") for key in _QUERY[3:]) if device else "",
        "nvcc": nvcc,
        "commit": source_commit(root),
        "cuda_hash": cuda_hash(root),
        "date": date.today().isoformat(),
    }


def file_name(facts: dict[str, str]) -> str:
    """Name of the results file: device and date."""
    device = "".join(c if c.isalnum() else "-" for c in facts["device"].lower())
    return f"{device}-{facts['date']}.json"

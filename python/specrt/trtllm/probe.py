"""Says in JSON what an environment and its machine have for TensorRT-LLM.

    PYTHON probe.py

Runs under the Python of TensorRT-LLM's environment, 3.10 or newer, and imports nothing but the
standard library: TensorRT without a driver ends the process that loads it.
"""

import ctypes
import importlib.metadata
import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

CUDA = "libcuda.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_CAPABILITY = (75, 76)  # attributes: major and minor compute capability


def package_version() -> str | None:
    """Version of tensorrt_llm, None without it."""
    try:
        return importlib.metadata.version("tensorrt_llm")
    except importlib.metadata.PackageNotFoundError:
        return None


def command() -> str | None:
    """Path of trtllm-build: beside this Python, where it puts scripts, or on the PATH."""
    folders = [str(Path(sys.executable).parent), sysconfig.get_path("scripts")]
    path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    return shutil.which("trtllm-build", path=path)


def device(cuda: ctypes.CDLL, number: int) -> dict[str, str]:
    """Name and compute capability of one GPU."""
    handle, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(handle), number)
    cuda.cuDeviceGetName(name, len(name), handle)
    parts = []
    for attribute in _CAPABILITY:
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        parts.append(str(value.value))
    return {"name": name.value.decode(), "compute_capability": ".".join(parts)}


def driver() -> dict[str, Any]:
    """The driver's CUDA version as 1000 * major + 10 * minor, why there is none, and the GPUs."""
    try:
        cuda = ctypes.CDLL(CUDA)
    except OSError:
        return {"driver": None, "driver_problem": f"{CUDA} cannot be loaded", "devices": []}
    status = cuda.cuInit(0)
    if status not in (0, _NO_DEVICE):
        return {"driver": None, "driver_problem": f"cuInit gives error {status}", "devices": []}
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    if status == 0:
        cuda.cuDeviceGetCount(ctypes.byref(count))
    devices = [device(cuda, number) for number in range(count.value)]
    return {"driver": version.value, "driver_problem": "", "devices": devices}


def look() -> dict[str, Any]:
    """All of it."""
    python = list(sys.version_info[:2])
    return {"python": python, "package": package_version(), "command": command(), **driver()}


if __name__ == "__main__":
    print(json.dumps(look()))

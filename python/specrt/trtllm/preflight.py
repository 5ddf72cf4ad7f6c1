"""Whether a machine can build or run TensorRT-LLM engines; each obstacle has an exit status."""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from specrt.build.errors import BuildError

NEEDED = "1.2.1"
_FIRST, _BEHIND = (1, 0), (1, 3)
_PYTHONS = ((3, 10), (3, 12))
_PROBE = Path(__file__).parent / "probe.py"
_PROBE_SECONDS = 60
_HELP_SECONDS = 300  # trtllm-build imports torch first


class Obstacle(IntEnum):
    """Why TensorRT-LLM cannot be used: exit statuses, in the order in which they are looked for."""

    INTERPRETER = 10
    PACKAGE = 11
    VERSION = 12
    PYTHON = 13
    DRIVER = 14
    DEVICE = 15
    COMMAND = 16


class PreflightError(BuildError):
    """TensorRT-LLM cannot be used here; `status` is the exit status."""

    def __init__(self, obstacle: Obstacle, text: str) -> None:
        super().__init__(text)
        self.obstacle = obstacle
        self.status = int(obstacle)


@dataclass(frozen=True)
class Device:
    """A GPU."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class Machine:
    """What probe.py found under an interpreter."""

    interpreter: str
    python: tuple[int, int]
    package: str | None  # version of tensorrt_llm
    command: str | None  # path of trtllm-build
    driver: int | None  # 1000 * major + 10 * minor of CUDA
    driver_problem: str
    devices: tuple[Device, ...]


def look(interpreter: str) -> Machine:
    """Run the probe under `interpreter`. Raises PreflightError."""
    try:
        done = subprocess.run(
            [interpreter, str(_PROBE)], capture_output=True, text=True, timeout=_PROBE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PreflightError(
            Obstacle.INTERPRETER, f"{interpreter} cannot be run ({error}); name a Python"
        ) from error
    try:
        found = json.loads(done.stdout)
        return _machine(interpreter, found)
    except (ValueError, KeyError, TypeError) as error:
        last = (done.stderr.strip().splitlines() or ["it printed something else"])[-1]
        raise PreflightError(
            Obstacle.INTERPRETER, f"{interpreter} does not run as a Python: {last}"
        ) from error


def _machine(interpreter: str, found: Mapping[str, Any]) -> Machine:
    major, minor = found["python"]
    return Machine(
        interpreter=interpreter,
        python=(int(major), int(minor)),
        package=found["package"],
        command=found["command"],
        driver=found["driver"],
        driver_problem=found["driver_problem"],
        devices=tuple(Device(**each) for each in found["devices"]),
    )


def check_runtime(machine: Machine) -> None:
    """Raise PreflightError unless engines of TensorRT-LLM 1.0 to 1.2 can run."""
    if machine.package is None:
        raise PreflightError(
            Obstacle.PACKAGE,
            f"{machine.interpreter} has no package tensorrt_llm; install TensorRT-LLM {NEEDED} in "
            "an environment of its own and name its Python with --trtllm-python",
        )
    _check_version(machine.package)
    if machine.python not in _PYTHONS:
        version = ".".join(map(str, machine.python))
        raise PreflightError(
            Obstacle.PYTHON,
            f"{machine.interpreter} is Python {version}; TensorRT-LLM {NEEDED} needs 3.10 or 3.12",
        )
    if machine.driver is None:
        raise PreflightError(
            Obstacle.DRIVER,
            f"no NVIDIA driver can be used ({machine.driver_problem}); TensorRT-LLM builds and "
            "runs engines on the GPU that they are for",
        )
    if not machine.devices:
        raise PreflightError(
            Obstacle.DEVICE, "the NVIDIA driver finds no GPU; is one visible to this process?"
        )


def check_build(machine: Machine) -> str:
    """Path of a trtllm-build that runs. Raises PreflightError, also those of `check_runtime`."""
    check_runtime(machine)
    if machine.command is None:
        raise PreflightError(
            Obstacle.COMMAND,
            f"trtllm-build is neither beside {machine.interpreter} nor on the PATH; install "
            f"TensorRT-LLM {NEEDED} there again",
        )
    try:
        done = subprocess.run(
            [machine.command, "--help"], capture_output=True, text=True, timeout=_HELP_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PreflightError(
            Obstacle.COMMAND, f"{machine.command} cannot be run: {error}"
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise PreflightError(
            Obstacle.COMMAND,
            f"{machine.command} --help ended with status {done.returncode}: {last}",
        )
    return machine.command


def _check_version(version: str) -> None:
    match = re.match(r"(\d+)\.(\d+)", version)
    number = (int(match[1]), int(match[2])) if match else (0, 0)
    if number >= _BEHIND:
        raise PreflightError(
            Obstacle.VERSION, f"TensorRT-LLM {version} has removed engine builds; need {NEEDED}"
        )
    if number < _FIRST:
        raise PreflightError(
            Obstacle.VERSION, f"TensorRT-LLM {version} is older than 1.0; need {NEEDED}"
        )

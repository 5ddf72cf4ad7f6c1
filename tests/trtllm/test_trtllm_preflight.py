"""Every obstacle has its own message and exit status, in one order; the probe runs for real."""

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from specrt.trtllm import preflight, probe
from specrt.trtllm.preflight import Device, Machine, Obstacle, PreflightError

HERE = Path(__file__).parent
BUILD = str(HERE / "stand_in_trtllm_build.py")
GOOD = Machine(
    interpreter="python",
    python=(3, 12),
    package="1.2.1",
    command=BUILD,
    driver=13000,
    driver_problem="",
    devices=(Device("Stand-in A", "9.0"),),
)
STAND_INS = [
    (Obstacle.PACKAGE, {"package": None}, "no package tensorrt_llm"),
    (Obstacle.VERSION, {"package": "1.3.0"}, "has removed engine builds; need 1.2.1"),
    (Obstacle.VERSION, {"package": "1.3.0rc2"}, "has removed engine builds; need 1.2.1"),
    (Obstacle.VERSION, {"package": "2.0"}, "has removed engine builds; need 1.2.1"),
    (Obstacle.VERSION, {"package": "0.21.0"}, "older than 1.0; need 1.2.1"),
    (Obstacle.VERSION, {"package": "unknown"}, "older than 1.0; need 1.2.1"),
    (Obstacle.PYTHON, {"python": (3, 11)}, "Python 3.11"),
    (Obstacle.DRIVER, {"driver": None, "driver_problem": "cuInit gives error 803"}, "error 803"),
    (Obstacle.DEVICE, {"devices": ()}, "finds no GPU"),
    (Obstacle.COMMAND, {"command": None}, "neither beside python nor on the PATH"),
    (Obstacle.COMMAND, {"command": str(HERE / "missing")}, "cannot be run"),
    (Obstacle.COMMAND, {"command": "/bin/false"}, "ended with status 1"),
]


@pytest.mark.parametrize(("obstacle", "changes", "words"), STAND_INS)
def test_an_obstacle_is_named(obstacle: Obstacle, changes: dict[str, object], words: str) -> None:
    with pytest.raises(PreflightError) as caught:
        preflight.check_build(replace(GOOD, **changes))
    assert caught.value.status == obstacle
    assert words in str(caught.value)


def test_statuses_are_distinct_and_no_others() -> None:
    assert [int(each) for each in Obstacle] == list(range(10, 17))


def test_the_first_obstacle_is_told() -> None:
    """Without several things, the one that comes first in the enumeration is named."""
    changes: dict[str, object] = {}
    for obstacle, change, _ in reversed(STAND_INS):
        changes |= change
        with pytest.raises(PreflightError) as caught:
            preflight.check_build(replace(GOOD, **changes))
        assert caught.value.obstacle <= obstacle
    assert caught.value.obstacle is Obstacle.PACKAGE


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0rc5", "1.2.1"])
@pytest.mark.parametrize("python", [(3, 10), (3, 12)])
def test_a_good_machine(version: str, python: tuple[int, int]) -> None:
    machine = replace(GOOD, package=version, python=python)
    assert preflight.check_build(machine) == BUILD


def test_running_needs_no_trtllm_build() -> None:
    preflight.check_runtime(replace(GOOD, command=None))


def test_an_interpreter_that_is_none() -> None:
    for words in ("/no/such/python", "/bin/true"):
        with pytest.raises(PreflightError) as caught:
            preflight.look(words)
        assert caught.value.obstacle is Obstacle.INTERPRETER
        assert words in str(caught.value)


def test_this_python_is_probed() -> None:
    machine = preflight.look(sys.executable)
    assert machine.python == sys.version_info[:2]
    assert machine.package == probe.package_version()


def run_probe(folder: Path, **environment: str) -> dict[str, object]:
    told = {**os.environ, "LD_LIBRARY_PATH": str(folder), **environment}
    done = subprocess.run(
        [sys.executable, probe.__file__], env=told, capture_output=True, text=True, check=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stand-in for the driver's library."""
    folder = tmp_path_factory.mktemp("driver")
    source = HERE / "stand_in_libcuda.c"
    library = folder / probe.CUDA
    subprocess.run(["g++", "-shared", "-fPIC", "-x", "c", source, "-o", library], check=True)
    return folder


def test_devices_are_found(driver: Path) -> None:
    found = run_probe(driver)
    assert found["driver"] == 13000
    assert found["devices"] == [
        {"name": "Stand-in A", "compute_capability": "9.0"},
        {"name": "Stand-in B", "compute_capability": "9.1"},
    ]


def test_a_driver_without_devices(driver: Path) -> None:
    found = run_probe(driver, STAND_IN_CUDA_STATUS="100")
    assert (found["driver"], found["devices"]) == (13000, [])


def test_a_driver_that_does_not_start(driver: Path) -> None:
    found = run_probe(driver, STAND_IN_CUDA_STATUS="803")
    assert found["driver"] is None
    assert "803" in str(found["driver_problem"])


def test_a_file_that_is_no_driver(tmp_path: Path) -> None:
    (tmp_path / probe.CUDA).write_text("not a library")
    found = run_probe(tmp_path)
    assert found["driver"] is None
    assert probe.CUDA in str(found["driver_problem"])


def test_the_command_is_found_on_the_path(tmp_path: Path) -> None:
    program = tmp_path / "trtllm-build"
    program.write_text("#!/bin/sh\necho a stand-in\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    found = run_probe(tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert found["command"] == str(program)

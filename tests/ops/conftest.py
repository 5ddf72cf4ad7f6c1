"""Every op test runs on every device of the backend under test.

A device of the CPU backend is an instruction set that this machine has; CUDA is one device.
"""

from collections.abc import Callable

import pytest
from backends import by_backend
from specrt._core import ops

DEVICES = by_backend(cpu=ops.cpu_isas(), cuda=["cuda"])


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """An instruction set of the CPU backend, or "cuda"."""
    return str(request.param)


@pytest.fixture(scope="session")
def runner_of() -> Callable[[str, int], ops.Runner]:
    """Runners by device and number of threads, which only a CPU has; made once."""
    runners: dict[tuple[str, int], ops.Runner] = {}

    def get(device: str, threads: int) -> ops.Runner:
        if (device, threads) not in runners:
            is_cuda = device == "cuda"
            made = ops.Runner.cuda() if is_cuda else ops.Runner.cpu(device, threads)
            runners[device, threads] = made
        return runners[device, threads]

    return get


@pytest.fixture
def runner(device: str, runner_of: Callable[[str, int], ops.Runner]) -> ops.Runner:
    """A runner, with two threads on a CPU."""
    return runner_of(device, 2)

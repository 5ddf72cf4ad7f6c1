"""Every op test runs on every backend that is present."""

from collections.abc import Callable

import pytest
from specrt._core import ops

ISAS = ops.cpu_isas()


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    """An instruction set of the CPU backend."""
    return str(request.param)


@pytest.fixture(scope="session")
def runner_of() -> Callable[[str, int], ops.Runner]:
    """Runners by instruction set and number of threads, made once."""
    runners: dict[tuple[str, int], ops.Runner] = {}

    def get(isa: str, threads: int) -> ops.Runner:
        if (isa, threads) not in runners:
            runners[isa, threads] = ops.Runner.cpu(isa, threads)
        return runners[isa, threads]

    return get


@pytest.fixture
def runner(isa: str, runner_of: Callable[[str, int], ops.Runner]) -> ops.Runner:
    """A runner with two threads."""
    return runner_of(isa, 2)

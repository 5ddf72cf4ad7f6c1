"""The example service of cpp/examples, run as a process of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_service import Service
from specrt.demo import bundle_path


@pytest.fixture(scope="session")
def program() -> Path:
    """The built service."""
    path = os.environ.get("SPECRT_SERVICE")
    if path is None:
        pytest.skip("SPECRT_SERVICE does not name the service that cpp/examples builds")
    return Path(path)


@pytest.fixture(scope="session")
def bundle() -> Path:
    return bundle_path()


@pytest.fixture(scope="module")
def service(program: Path, bundle: Path) -> Iterator[Service]:
    """One with a short queue and low limits."""
    limits = {"--queue": 16, "--max-body": 65536, "--max-prompt-tokens": 200, "--max-tokens": 512}
    with Service(program, bundle, limits) as running:
        yield running
        assert running.stop() == 0

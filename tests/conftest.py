"""Fixtures that several folders of tests share. Nothing is read outside of the repository."""

import gzip
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from backends import BACKEND, by_backend

TESTS = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cpu_only(reason): a test of the CPU backend alone")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves tests of the CPU backend out where another is under test, and says why."""
    for item in items:
        mark = item.get_closest_marker("cpu_only")
        if mark is not None and BACKEND != "cpu":
            item.add_marker(pytest.mark.skip(reason=f"CPU only: {mark.args[0]}"))


# A shell that starts the tests in the background ignores interrupts, which children would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own, so that the demo bundle is built from this checkout."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the packaged demo models, target and draft; on CUDA of stand-ins for them."""
    from bundles import DEMO, write_stand_ins

    return DEMO if BACKEND == "cpu" else write_stand_ins(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def demo_bundle(cache_folder: Path, demo_models: Path) -> Path:
    """The demo models, compiled."""
    from bundles import bundle_of
    from specrt.demo import bundle_path

    if BACKEND == "cpu":
        return bundle_path()
    target, draft = demo_models / "target", demo_models / "draft"
    return bundle_of(target, cache_folder / "stand-in", draft=draft)


@pytest.fixture(scope="session")
def prompts() -> list[dict[str, str]]:
    """200 prompts of different kinds: {"id", "category", "prompt"}; on CUDA 4 of them."""
    with gzip.open(TESTS / "data" / "prompts.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][:: by_backend(cpu=1, cuda=50)]


@pytest.fixture(scope="session")
def long_run() -> bool:
    """Whether the tests of reliability take their long form: SPECRT_LONG_TESTS=1."""
    return os.environ.get("SPECRT_LONG_TESTS") == "1"

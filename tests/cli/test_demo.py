"""The packaged demo: its bundle in the cache, and the command."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import specrt
from specrt import demo
from specrt.cli.main import main


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


METHODS = ["autoregressive", "speculative", "parallel", "streaming"]


def test_demo_shows_the_methods_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    captured = capsys.readouterr()
    assert "only this once" in captured.err
    assert [captured.out.count(f"[{name}]") for name in METHODS] == [5, 5, 5, 5]
    rows = re.findall(rf"^({'|'.join(METHODS)}) +([\d,]+) .* yes$", captured.out, re.M)
    assert [name for name, _ in rows] == METHODS


def test_the_bundle_is_built_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = demo.bundle_path(progress=True)
    built = (path / "target.engine").stat().st_mtime_ns
    capsys.readouterr()
    assert demo.bundle_path(progress=True) == path
    assert capsys.readouterr().err == ""
    assert path.parent == cache / "specrt"
    assert (path / "target.engine").stat().st_mtime_ns == built
    assert specrt.LLM("demo").bundle.curves is not None


def test_processes_that_build_at_the_same_time_all_find_it(cache: Path) -> None:
    path = demo.bundle_path()
    shutil.rmtree(path)
    program = "import specrt; print(len(specrt.LLM('demo').generate('Hello')))"
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert {process.communicate(timeout=120)[0] for process in processes} == {"1\n"}
    assert [entry.name for entry in (cache / "specrt").iterdir()] == [path.name]


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_an_unusable_cache_setting_means_home(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert demo.cache_folder() == tmp_path / ".cache" / "specrt"

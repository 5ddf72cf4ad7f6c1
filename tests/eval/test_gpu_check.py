"""tools/gpu_check.py: order of stages, what a failing stage does, the results file, the table."""

import json
import shutil
import time
from pathlib import Path

import pytest
from gpu import command, stages
from gpu.facts import cuda_hash, file_name
from gpu.goals import GOALS
from gpu.predictions import CONTEXTS, ROWS, predictions, step_ms
from gpu.results import Prediction, Reading, Results
from gpu.runner import Run, Stage, StageError, UnavailableError, run_stages
from gpu.table import summary

ROOT = Path(__file__).resolve().parents[2]
FACTS = {"device": "Some GPU", "driver": "1", "commit": "abc-dirty", "cuda_hash": "0" * 64}
FACTS["date"] = "2026-01-02"


@pytest.fixture
def results() -> Results:
    return Results(dict(FACTS), {"8b.step.r1": Prediction(5.0, "ms", "a guess")})


@pytest.fixture
def run(tmp_path: Path, results: Results) -> Run:
    return Run(root=tmp_path, build=tmp_path / "build", out=tmp_path / "logs", results=results)


def stage(name: str, work: object, budget: float = 10.0) -> Stage:
    return Stage(name, budget, "", work)  # type: ignore[arg-type]


def ended(results: Results) -> dict[str, str]:
    return {result.name: result.status for result in results.stages}


def test_stages_run_in_their_own_order() -> None:
    names = [stage.name for stage in stages.STAGES]
    assert names[:2] == ["build", "litmus"]
    assert names.index("ceilings") < names.index("steps") < names.index("sanitizer")
    picked = command._parser().parse_args(["--stages", "steps,build,ceilings"]).stages
    assert [stage.name for stage in picked] == ["build", "ceilings", "steps"]


def test_an_unknown_stage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--stages", "stops"])
    assert "no stage 'stops'; there are build, litmus" in capsys.readouterr().err


def test_the_stages_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(stages.STAGES)


def test_a_stage_that_ends_badly_does_not_stop_the_next(run: Run, tmp_path: Path) -> None:
    def fail(_: Run) -> None:
        raise StageError("does not hold")

    def miss(_: Run) -> None:
        raise UnavailableError("no tool")

    def break_down(_: Run) -> None:
        raise ZeroDivisionError("of its own")

    def read(r: Run) -> None:
        r.results.add(Reading("8b.step.r1", 4.5, "ms"))

    path = tmp_path / "results.json"
    works = {"fails": fail, "misses": miss, "breaks": break_down, "reads": read}
    run_stages([stage(name, work) for name, work in works.items()], run, 60, path)
    wanted = {"fails": "failed", "misses": "unavailable", "breaks": "failed", "reads": "passed"}
    assert ended(run.results) == wanted
    assert run.results.stages[2].reason == "ZeroDivisionError: of its own"
    written = json.loads(path.read_text())
    assert [row["status"] for row in written["stages"]] == list(wanted.values())
    assert written["readings"][0]["predicted"] == 5.0


def test_a_failed_build_names_its_first_error_and_shows_the_end_of_its_log(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(r: Run) -> None:
        error = "a.cpp:3:1: error: no such name"
        r.command(["sh", "-c", f"echo first; echo '{error}'; seq 100 199; exit 1"])

    run_stages([stage("build", build)], run, 60, tmp_path / "results.json")
    assert run.results.stages[0].reason == "sh: a.cpp:3:1: error: no such name"
    shown = capsys.readouterr().err
    assert "   | 199" in shown
    assert "   | 150" not in shown
    assert str(run.out / "build.log") in shown


def test_a_tool_that_is_missing_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnavailableError, match="nvcc is not on the PATH"):
        stages.build(run)
    with pytest.raises(UnavailableError, match="the package is not installed"):
        stages.op_tests(run)


def test_programs_are_ended_after_the_time_of_their_stage(run: Run, tmp_path: Path) -> None:
    line = '{"name": "a.b", "value": 3, "unit": "us"}'

    def sleep(r: Run) -> None:
        r.command(["sh", "-c", f"echo '{line}'; sleep 60 & sleep 60"])

    begin = time.monotonic()
    run_stages([stage("sleeps", sleep, budget=0.5)], run, 60, tmp_path / "results.json")
    assert time.monotonic() - begin < 10
    assert ended(run.results) == {"sleeps": "timeout"}
    assert run.results.value("a.b") == 3


def test_stages_behind_the_whole_budget_are_skipped(run: Run, tmp_path: Path) -> None:
    def sleep(r: Run) -> None:
        r.command(["sleep", "60"])

    both = [stage("first", sleep, budget=30), stage("second", sleep, budget=30)]
    run_stages(both, run, 0.5, tmp_path / "results.json")
    assert ended(run.results) == {"first": "timeout", "second": "skipped"}


def test_a_program_that_fails_says_why_and_keeps_its_readings(run: Run, tmp_path: Path) -> None:
    def work(r: Run) -> None:
        line = '{"name": "a", "value": 1, "unit": "us"}'
        r.command(["sh", "-c", f"echo '{line}'; echo '{{\"name\": \"cut'; echo no GPU; exit 3"])

    run_stages([stage("works", work)], run, 60, tmp_path / "results.json")
    [result] = run.results.stages
    assert result.status == "failed"
    assert result.reason.startswith("sh: ")
    assert result.reason.endswith("no GPU")
    assert list(run.results.readings) == ["a"]
    assert "no GPU" in (run.out / "works.log").read_text()


def test_predictions_are_in_the_file_before_anything_runs(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    seen = []

    def look(_: Run) -> None:
        seen.append(json.loads(path.read_text()))

    run_stages([stage("looks", look)], run, 60, path)
    assert seen[0]["predictions"]["8b.step.r1"]["value"] == 5.0
    assert seen[0]["stages"] == []


def test_the_results_file(results: Results) -> None:
    results.add(Reading("ceiling.copy", 4000.0, "GB/s"))
    results.add(Reading("8b.step.r1", 5.0, "ms", bytes=15e9))
    written = results.to_json()
    assert written["format"] == 1
    assert {key: written[key] for key in FACTS} == FACTS
    copy, step = written["readings"]
    assert copy == {
        "name": "ceiling.copy",
        "value": 4000.0,
        "unit": "GB/s",
        "bytes": 0.0,
        "predicted": None,
        "share_of_copy": None,
    }
    assert step["share_of_copy"] == pytest.approx(0.75)
    assert file_name(FACTS) == "some-gpu-2026-01-02.json"


def test_the_hash_is_of_the_kernels_alone(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "cuda", tmp_path / "cuda")
    before = cuda_hash(tmp_path)
    assert before == cuda_hash(ROOT)
    (tmp_path / "cuda" / "emulation" / "more.h").write_text("int a;")
    (tmp_path / "cuda" / "notes.md").write_text("words")
    assert cuda_hash(tmp_path) == before
    header = tmp_path / "cuda" / "rows.h"
    header.write_text(header.read_text() + "\n")
    assert cuda_hash(tmp_path) != before
    header.rename(tmp_path / "cuda" / "lines.h")
    assert cuda_hash(tmp_path) != before


def test_every_reading_of_a_whole_run_is_predicted() -> None:
    table = predictions()
    for shape in ("8b", "1b"):
        for rows in ROWS:
            assert f"{shape}.step.r{rows}" in table
            assert f"{shape}.linear.gate_up.r{rows}" in table
    for context in CONTEXTS:
        assert f"7b.attention.c{context}.r64" in table
    assert all(prediction.value >= 0 and prediction.basis for prediction in table.values())
    assert ",".join(str(context) for context in CONTEXTS) == stages.CONTEXTS


def test_predicted_steps_lie_above_the_floor_of_their_bytes() -> None:
    from gpu.predictions import COPY, SHAPES

    for name, gigabytes in {"8b": 15.01, "7b": 13.21, "1b": 2.47}.items():
        shape = SHAPES[name]
        sizes = shape.matrices()
        head = sizes.pop("head")
        assert shape.layers * sum(sizes.values()) + head == pytest.approx(gigabytes * 1e9, rel=1e-3)
        assert gigabytes / COPY * 1e3 < step_ms(shape, 1) < 2.2 * gigabytes / COPY * 1e3


def test_the_table_shows_readings_goals_and_stages(run: Run, tmp_path: Path) -> None:
    def work(r: Run) -> None:
        r.results.add(Reading("ceiling.copy", 4000.0, "GB/s"))
        r.results.add(Reading("8b.step.r1", 6.0, "ms", bytes=15e9))
        r.results.add(Reading("8b.step.r8", 6.03, "ms", bytes=15e9))
        raise StageError("a reason")

    run_stages([stage("works", work)], run, 60, tmp_path / "results.json")
    text = summary(run.results)
    lines = text.splitlines()
    assert lines[0] == "Some GPU, driver 1, cuda/ 000000000000, commit abc dirty"
    assert "8b.step (ms): r1 6 [5!] 62%  r8 6.03 62%" in lines
    rates = next(line for line in lines if line.startswith("8B, tokens/s"))
    assert rates.split()[-4:] == ["167", ">=", "190", "NO"]
    assert next(line for line in lines if line.startswith("8B, 8 rows")).endswith("yes")
    assert next(line for line in lines if line.startswith("1B,")).endswith("-")
    assert "works: a reason" in lines
    assert len(GOALS) == sum(line.endswith(("yes", "NO", " -")) for line in lines)


def test_broken_assumptions_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.build.mkdir()
    program = run.build / stages.CHECK
    program.write_text(
        '#!/bin/sh\necho \'{"name": "mma.rows", "value": 2, "unit": "exceptions"}\'\n'
        'echo \'{"name": "mma.zeros", "value": 0, "unit": "exceptions"}\'\n'
    )
    program.chmod(0o755)
    run.out.mkdir()
    run.deadline = time.monotonic() + 10
    with pytest.raises(StageError, match=r"do not hold: mma\.rows$"):
        stages.litmus(run)


def test_a_missing_program_or_tool_is_unavailable(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="compute-sanitizer is not on the PATH"):
        stages.sanitizer(run)
    with pytest.raises(UnavailableError, match="specrt_cuda_device_tests"):
        stages.kernel_tests(run)

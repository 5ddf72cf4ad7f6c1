"""Runs stages one after the other, each within its share of the time, whatever the others did."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gpu.results import Reading, Results, StageResult

_TAIL_LINES = 6
_LOG_TAIL_LINES = 40  # of a failed stage's log, shown as it ends


class StageError(Exception):
    """Something that a stage checked does not hold; the text says what."""


class UnavailableError(Exception):
    """A tool that the stage needs is not on this machine."""


class OutOfTimeError(Exception):
    """The stage's time is over."""


@dataclass(frozen=True)
class Stage:
    """One part of a run.

    Attributes:
        name: as `--stages` takes it.
        budget: seconds it may take.
        about: what it does, for `--list`.
        run: raises StageError, UnavailableError or OutOfTimeError, or returns.
    """

    name: str
    budget: float
    about: str
    run: Callable[[Run], None]


@dataclass
class Run:
    """What stages work with.

    Attributes:
        root: the checkout.
        build: folder of the build.
        out: folder of results and logs.
        results: what was found so far.
        emulated: programs run on the SIMT emulator with tiny shapes.
        deadline: of the stage that runs, on the monotonic clock.
        log: output of the stage's programs.
    """

    root: Path
    build: Path
    out: Path
    results: Results
    emulated: bool = False
    deadline: float = 0.0
    log: IO[str] = sys.stderr

    def left(self) -> float:
        """Seconds that the stage still has."""
        return self.deadline - time.monotonic()

    def tool(self, name: str) -> str:
        """Path of a program.

        Raises:
            UnavailableError: it is not on the PATH.
        """
        path = shutil.which(name)
        if path is None:
            raise UnavailableError(f"{name} is not on the PATH")
        return path

    def command(
        self, words: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> str:
        """Runs a program in the checkout and gives its output; readings in it are kept.

        Readings are lines of JSON with name, value and unit. They are kept as they come, so those
        before a failure count.

        Raises:
            StageError: it ended with an error; the text has its last lines.
            OutOfTimeError: it ran past the stage's time and was ended.
        """
        words = [str(word) for word in words]
        print("$", *words, file=self.log, flush=True)
        output = self.out / "output.txt"
        with output.open("w+", encoding="utf-8", errors="replace") as file:
            process = subprocess.Popen(
                words,
                cwd=self.root,
                env={**os.environ, **(environment or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that what it started ends with it
            )
            try:
                process.wait(timeout=max(0.0, self.left()))
                is_late = False
            except subprocess.TimeoutExpired:
                is_late = True
            finally:
                _end(process)
            file.seek(0)
            text = file.read()
        output.unlink()
        print(text, file=self.log, flush=True)
        self._keep_readings(text)
        if is_late:
            raise OutOfTimeError(f"{Path(words[0]).name} was ended after its time")
        if process.returncode != 0:
            raise StageError(f"{Path(words[0]).name}: {_cause(text)}")
        return text

    def _keep_readings(self, text: str) -> None:
        for line in text.splitlines():
            if not line.startswith('{"name"'):
                continue
            try:
                self.results.add(Reading(**json.loads(line)))
            except (ValueError, TypeError):  # cut off where the program was ended
                continue


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _cause(text: str) -> str:
    """A compiler's first error, as the last lines are about something else; or the last lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first_error = next((line for line in lines if " error: " in line or "Error at" in line), None)
    if first_error is not None:
        return first_error[-600:]
    return " | ".join(lines[-_TAIL_LINES:])[-600:]


def run_stage(stage: Stage, run: Run, end: float) -> StageResult:
    """Runs a stage until its budget or `end`, on the monotonic clock, and says how it ended."""
    begin = time.monotonic()
    budget = min(stage.budget, end - begin)
    status, reason = "passed", ""
    if budget <= 0:
        return StageResult(stage.name, "skipped", 0.0, 0.0, "the time of the run was spent")
    run.deadline = begin + budget
    try:
        stage.run(run)
    except StageError as error:
        status, reason = "failed", str(error)
    except UnavailableError as error:
        status, reason = "unavailable", str(error)
    except OutOfTimeError as error:
        status, reason = "timeout", str(error)
    except Exception as error:  # a stage that is wrong itself does not stop the next one
        status, reason = "failed", f"{type(error).__name__}: {error}"
    return StageResult(stage.name, status, time.monotonic() - begin, budget, reason)


def _show_tail(log: Path) -> None:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines[-_LOG_TAIL_LINES:]:
        print(f"   | {line}", file=sys.stderr)
    print(f"   all of it: {log}", file=sys.stderr, flush=True)


def run_stages(stages: Sequence[Stage], run: Run, budget: float, path: Path) -> None:
    """Runs all of them within `budget` seconds; the file is written before and after each one."""
    end = time.monotonic() + budget
    run.out.mkdir(parents=True, exist_ok=True)
    run.results.write(path)
    for stage in stages:
        print(f"== {stage.name}: {stage.about}", file=sys.stderr, flush=True)
        with (run.out / f"{stage.name}.log").open("w", encoding="utf-8") as log:
            run.log = log
            result = run_stage(stage, run, end)
        run.results.stages.append(result)
        run.results.write(path)
        line = f"   {result.status} after {result.seconds:.0f} s"
        print(f"{line}: {result.reason}" if result.reason else line, file=sys.stderr, flush=True)
        if result.status in ("failed", "timeout"):
            _show_tail(run.out / f"{stage.name}.log")

"""Measures what a bundle does on this machine: step times, speed of methods, acceptance.

Draft lengths and the method `auto` follow from them; they are kept in the bundle's manifest.
"""

import contextlib
import json
import os
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from specrt._core import EngineRole
from specrt.bundle import MANIFEST, Bundle, open_bundle
from specrt.curves import Curves
from specrt.eval.machine import place_of
from specrt.eval.method_speed import measure_acceptance, measure_methods
from specrt.llm import LLM

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64)
CACHED = 64  # positions behind the step: a short context
_PASSES = 20
_FEWEST_PASSES = 3
_BUDGET_SECONDS = 20.0
_REPEATS = 4  # steps timed in a row; the first warms the caches and is dropped

# How the engine of each drafter is loaded, drafting in turns and, where it can, overlapped.
_METHODS: dict[str, tuple[str, ...]] = {
    "draft": ("speculative", "pearl"),
    "parallel": ("parallel", "pearl:parallel"),
    "parallel-eagle": ("parallel-eagle", "pearl:parallel-eagle"),
    "parallel-medusa": ("parallel-medusa", "pearl:parallel-medusa"),
    "medusa": ("medusa", "pearl:medusa"),
    "eagle": ("eagle", "pearl:eagle"),
}


def measure(llm: LLM, *, progress: bool = False) -> Curves:
    """Measures the engines that `llm` has loaded.

    Each pass goes over all row counts, so that a disturbance of the machine meets all of them. The
    least time is kept: what a step takes when nothing disturbs it, which is what lengths are to be
    compared by. For the same reason a step counts no more than one of more rows, whose place it
    could take. Stops early, after at least three passes, when steps are long.
    """
    roles = {"target": EngineRole.target}
    if llm.drafter is not None:
        roles[llm.drafter] = EngineRole.drafter
    most = min(ROWS[-1], llm.core.context)
    cached = max(0, min(CACHED, llm.core.context - most))
    jobs = [(role, rows) for role in roles for rows in ROWS if rows <= most]
    times: dict[tuple[str, int], list[float]] = {job: [] for job in jobs}
    begin = time.monotonic()
    disable = None if progress else True  # None: off unless stderr is a terminal
    total = _PASSES * len(jobs)
    with tqdm(total=total, desc="measure steps", disable=disable, leave=False) as bar:
        for number in range(_PASSES):
            if number >= _FEWEST_PASSES and time.monotonic() - begin > _BUDGET_SECONDS:
                break
            for role, rows in jobs:
                steps = llm.core.time_steps(roles[role], rows, cached, _REPEATS)
                times[role, rows] += steps[1:]
                bar.update()
    step_ms: dict[str, dict[str, float]] = {}
    for role in roles:
        least = {rows: min(times[role, rows]) for other, rows in jobs if other == role}
        step_ms[role] = {
            str(rows): round(min(ms for n, ms in least.items() if n >= rows), 5) for rows in least
        }
    place = place_of(llm.core.backend, llm.threads)
    return Curves(place.machine, place.threads, place.isa, step_ms)


def _measure_engines(bundle: Bundle, threads: int | None, *, progress: bool) -> Curves:
    """Step times of the target and of every drafter, in turns and overlapped."""
    drafters = [name for name in _METHODS if name in bundle.drafters]
    if not drafters:
        return measure(LLM(bundle, "autoregressive", threads=threads), progress=progress)
    in_turns, overlapped = (
        [
            measure(LLM(bundle, method, 1, threads=threads), progress=progress)
            for name in drafters
            for method in _METHODS[name][which : which + 1]
        ]
        for which in (0, 1)
    )
    return replace(
        in_turns[0],
        step_ms={name: ms for each in reversed(in_turns) for name, ms in each.step_ms.items()},
        overlapped_step_ms={
            name: ms for each in reversed(overlapped) for name, ms in each.step_ms.items()
        },
    )


def tune(bundle_path: str | Path, threads: int | None = None, *, progress: bool = False) -> Curves:
    """Measures step times, methods and drafts of a bundle and stores them in its manifest.

    Args:
        bundle_path: the bundle's folder.
        threads: cores to use; None takes all that the process may run on.
        progress: whether to show a progress bar.

    Raises:
        Error: the bundle cannot be loaded.
        OSError: the manifest cannot be written.
    """
    bundle = open_bundle(bundle_path)
    curves = _measure_engines(bundle, threads, progress=progress)
    measured = Bundle(bundle.path, {**bundle.manifest, "curves": asdict(curves)})
    rates = measure_methods(measured, threads, progress=progress)
    curves = replace(curves, tokens_per_second=rates)
    if bundle.has_draft:
        counts = measure_acceptance(measured, threads)
        curves = replace(curves, acceptance=asdict(counts) if counts is not None else {})
    _store(bundle.path, curves)
    return curves


def _store(folder: Path, curves: Curves) -> None:
    """Puts `curves` into the manifest in one step: a reader sees the old one or the new one."""
    path = folder / MANIFEST
    manifest = dict(open_bundle(folder).manifest)
    manifest["curves"] = asdict(curves)
    handle, name = tempfile.mkstemp(prefix=".manifest-", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(path.stat().st_mode & 0o777)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise

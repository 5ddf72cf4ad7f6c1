"""Command line of tools/gpu_check.py."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpu.facts import file_name, run_facts
from gpu.predictions import predictions
from gpu.results import Results
from gpu.runner import Run, Stage, run_stages
from gpu.stages import PEERS, STAGES
from gpu.table import summary

ROOT = Path(__file__).resolve().parents[2]
_BAD = {"failed", "timeout", "skipped"}
_CUDA_TOOLS = "/usr/local/cuda/bin"  # where the toolkit lies if the PATH does not say
_EMULATED_PATIENCE = 10  # times the budget of a stage: the machine may be busy, or sanitizers on


def _stages(text: str) -> list[Stage]:
    """The named stages, in the order of the list."""
    names = text.split(",")
    known = [stage.name for stage in STAGES]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no stage {name!r}; there are {', '.join(known)}")
    return [stage for stage in STAGES if stage.name in names]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu_check.py",
        description="Build, check and measure the CUDA backend on this machine's GPU.",
    )
    add = parser.add_argument
    add("--stages", type=_stages, default=list(STAGES), help="comma-separated; default: all")
    add("--budget", type=float, default=570.0, help="seconds for everything (default: 570)")
    add("--build", type=Path, default=ROOT / "build" / "gpu", help="folder of the build")
    add(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        help="folder of <device>-<date>.json; logs go below it",
    )
    add("--peers", action="store_true", help="measure transformers instead")
    add("--list", action="store_true", help="print the stages and stop")
    add("--emulated", action="store_true", help="tiny shapes on the SIMT emulator, for tests")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the stages; 0 if none failed. A stage without its tools is no failure."""
    options = _parser().parse_args(arguments)
    stages = list(PEERS) if options.peers else options.stages
    if options.list:
        for stage in stages:
            print(f"{stage.name:10} {stage.budget:4.0f} s  {stage.about}")
        return 0
    if options.emulated:
        stages = [replace(stage, budget=_EMULATED_PATIENCE * stage.budget) for stage in stages]
    os.environ["PATH"] += f"{os.pathsep}{_CUDA_TOOLS}"
    facts = run_facts(ROOT, options.emulated)
    name = file_name(facts)
    path = options.out / (f"peers-{name}" if options.peers else name)
    results = Results(facts, predictions())
    run = Run(
        root=ROOT,
        build=options.build.resolve(),
        out=options.out.resolve() / f"{path.stem}-logs",
        results=results,
        emulated=options.emulated,
    )
    run_stages(stages, run, options.budget, path)
    print(summary(results))
    print(f"\nwritten to {path}")
    return 1 if any(stage.status in _BAD for stage in results.stages) else 0


if __name__ == "__main__":
    sys.exit(main())

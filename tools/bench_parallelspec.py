#!/usr/bin/env python3
"""Benchmark of drafters that fill masks: six tasks, greedy and sampled, in one run.

    python tools/bench_parallelspec.py BUNDLE --data DATA

BUNDLE has a parallel drafter and a draft model (`specrt build MODEL --draft DRAFT --draft
MASK_DRAFTER -o BUNDLE`). DATA holds TASK.jsonl or TASK.jsonl.gz of gsm8k, humaneval, mbpp,
mt_bench, wikisql and e2e_nlg, rows {"prompt"} or {"turns"}. Writes parallelspec.jsonl, .md and .png
into OUT, and fails if an output differs from autoregressive decoding. Needs matplotlib: pip install
'specrt[bench]'.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from specrt import Error, __version__
from specrt.cli.options import count, named_bundle
from specrt.eval.bench import BenchOptions
from specrt.eval.machine import source_commit, this_machine
from specrt.eval.parallelspec import (
    METHODS,
    ParallelSpecRun,
    parallelspec_json,
    parallelspec_markdown,
    run_parallelspec,
)
from specrt.eval.parallelspec_plot import draw_parallelspec
from specrt.eval.plot import check_plot
from specrt.eval.task_prompts import task_prompts

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes; 1 if an output differed, 2 for bad arguments."""
    args = _parser().parse_args(arguments)
    options = BenchOptions(
        methods=tuple(name.strip() for name in args.methods.split(",")),
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        threads=args.threads,
        num_speculative_tokens=args.num_speculative_tokens,
        repeats=args.repeats,
    )
    out = args.out or RESULTS / _result_name()
    try:
        check_plot(out / "parallelspec.png", options.methods)
        prompts = task_prompts(args.data, args.limit)
        bundle = named_bundle(args.bundle)
        result = run_parallelspec(
            bundle, prompts, options, args.temperatures, progress=sys.stderr.isatty()
        )
    except (ValueError, Error) as error:
        print(f"bench_parallelspec: error: {error}", file=sys.stderr)
        return 2
    _write(result, bundle.path.resolve().name, out)
    for where in result.differing:
        print(f"the output differs from autoregressive decoding: {where}", file=sys.stderr)
    return 1 if result.differing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE")
    add("--data", type=Path, required=True, help="folder of the tasks' prompts")
    add("--out", type=Path, help="folder to write (default: benchmarks/results/DATE-MACHINE)")
    add("--methods", default=",".join(METHODS), help="default: %(default)s")
    add("--temperatures", type=float, nargs="+", default=[0.0, 1.0], metavar="T")
    add("--limit", type=count, default=8, help="prompts of every task (default: %(default)s)")
    add("--repeats", type=count, default=3, help="times are the median (default: %(default)s)")
    add("--max-new-tokens", type=count, default=128, help="default: %(default)s")
    add("--num-speculative-tokens", type=count, help="default: adapts to the drafts")
    add("--threads", type=count, help="default: all")
    add("--seed", type=int, default=0)
    return parser


def _result_name() -> str:
    """For example 2026-01-31-amd-epyc-2-cores."""
    machine = this_machine()
    model = re.sub(r"[^a-z0-9]+", "-", machine.cpu_model.lower()).strip("-")
    return f"{datetime.now(UTC):%Y-%m-%d}-{model}-{machine.cores}-cores"


def _write(result: ParallelSpecRun, model: str, out: Path) -> None:
    run = next(iter(result.runs.values()))
    place = f"{model} on {run.machine.cpu_model}, {run.threads} threads, {run.backend}"
    out.mkdir(parents=True, exist_ok=True)
    with (out / "parallelspec.jsonl").open("w", encoding="utf-8") as file:
        rows = parallelspec_json(result, __version__, source_commit())
        file.writelines(json.dumps(row) + "\n" for row in rows)
    text = parallelspec_markdown(result, place)
    (out / "parallelspec.md").write_text(text, encoding="utf-8")
    draw_parallelspec(result, place, out / "parallelspec.png")
    print(text)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Benchmark of all drafters of a bundle: six tasks, greedy and sampled, in one run.

    python tools/bench_parallelspec.py BUNDLE --data DATA

BUNDLE has some of the six drafters, all of one target (`specrt build MODEL --draft DRAFT_MODEL
--draft MASK_DRAFTER --draft MEDUSA --draft PARALLEL_MEDUSA --draft EAGLE --draft PARALLEL_EAGLE -o
BUNDLE`); those that draft in one step are compared with those that they stand in for. DATA holds
TASK.jsonl or TASK.jsonl.gz of gsm8k, humaneval, mbpp, mt_bench, wikisql and e2e_nlg, rows
{"prompt"} or {"turns"}. Writes parallelspec.jsonl, .md and .png into OUT, and fails if an output
differs from autoregressive decoding. Needs matplotlib: pip install 'specrt[bench]'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from specrt import Error, __version__
from specrt.cli.options import count, named_bundle
from specrt.eval.machine import source_commit
from specrt.eval.parallel_fits import methods_of, with_chains
from specrt.eval.parallelspec import (
    ParallelSpecRun,
    parallelspec_json,
    parallelspec_markdown,
    run_parallelspec,
)
from specrt.eval.parallelspec_plot import draw_parallelspec
from specrt.eval.plot import check_plot
from specrt.eval.task_prompts import task_prompts
from task_study import add_arguments, bench_options, place_text, result_folder, write_rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes; 1 if an output differed, 2 for bad arguments."""
    args = _parser().parse_args(arguments)
    out = result_folder(args)
    try:
        bundle = named_bundle(args.bundle)
        options = bench_options(args, methods_of(bundle))
        options = replace(
            options,
            methods=with_chains(options.methods) if args.chains else options.methods,
            num_speculative_tokens=args.num_speculative_tokens,
        )
        check_plot(out / "parallelspec.png", options.methods)
        prompts = task_prompts(args.data, args.limit)
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
    add_arguments(parser, None)
    add("--temperatures", type=float, nargs="+", default=[0.0, 1.0], metavar="T")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--num-speculative-tokens", type=count, help="in chains (default: adapts to the drafts)")
    add(
        "--chains",
        action="store_true",
        help="measure methods that draft trees with chains as well, as METHOD@nodes=0",
    )
    return parser


def _write(result: ParallelSpecRun, model: str, out: Path) -> None:
    place = f"{model} on {place_text(next(iter(result.runs.values())))}"
    rows = parallelspec_json(result, __version__, source_commit())
    write_rows(rows, out / "parallelspec.jsonl")
    text = parallelspec_markdown(result, place)
    (out / "parallelspec.md").write_text(text, encoding="utf-8")
    draw_parallelspec(result, place, out / "parallelspec.png")
    print(text)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Benchmark of Speculative Streaming: six tasks beside the other methods, and its settings.

    python tools/bench_streaming.py BUNDLE --data DATA [--also NAME=BUNDLE ...]

The target of BUNDLE has streams (`specrt build MODEL --draft ADAPTER --draft DRAFT --draft
MASK_DRAFTER -o BUNDLE`); --also names bundles of the same target with other adapters. DATA holds
TASK.jsonl or TASK.jsonl.gz of dialogsum, wikisql, spider, e2e_nlg, mt_bench and gsm8k, rows
{"prompt"} or {"turns"}. Writes streaming.jsonl, .md and .png into OUT, and fails if an output
differs from autoregressive decoding. Needs matplotlib: pip install 'specrt[bench]'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from specrt import Error, __version__
from specrt.cli.options import named_bundle
from specrt.eval.machine import source_commit
from specrt.eval.plot import check_plot
from specrt.eval.streaming import (
    METHODS,
    TASKS,
    StreamingRun,
    default_ablations,
    run_streaming,
    streaming_json,
    streaming_markdown,
)
from specrt.eval.streaming_plot import draw_streaming
from specrt.eval.task_prompts import task_prompts
from task_study import (
    add_arguments,
    bench_options,
    bundles_by_name,
    place_text,
    result_folder,
    write_rows,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes; 1 if an output differed, 2 for bad arguments."""
    args = _parser().parse_args(arguments)
    out = result_folder(args)
    try:
        options = bench_options(args)
        check_plot(out / "streaming.png", options.methods)
        prompts = task_prompts(args.data, args.limit, TASKS)
        bundle = named_bundle(args.bundle)
        ablations: Sequence[str] = default_ablations(bundle.streams)
        if args.ablations is not None:
            ablations = [name.strip() for name in args.ablations.split(",") if name.strip()]
        result = run_streaming(
            bundle,
            prompts,
            options,
            args.temperatures,
            ablations,
            bundles_by_name(args.also),
            progress=sys.stderr.isatty(),
        )
    except (ValueError, Error) as error:
        print(f"bench_streaming: error: {error}", file=sys.stderr)
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
    add_arguments(parser, METHODS)
    add("--temperatures", type=float, nargs="+", default=[0.0, 1.0], metavar="T")
    add("--ablations", help='settings of streaming (default: by its streams; "" for none)')
    add("--also", nargs="+", default=[], metavar="NAME=BUNDLE", help="other adapters")
    return parser


def _write(result: StreamingRun, model: str, out: Path) -> None:
    place = f"{model} on {place_text(next(iter(result.runs.values())))}"
    write_rows(streaming_json(result, __version__, source_commit()), out / "streaming.jsonl")
    text = streaming_markdown(result, place)
    (out / "streaming.md").write_text(text, encoding="utf-8")
    draw_streaming(result, place, out / "streaming.png")
    print(text)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
r"""Benchmark of PEARL: six tasks, several draft models, real and paced steps, each phase alone.

    python tools/bench_pearl.py demo BUNDLE --data DATA --limit 8 --repeats 3 \
        --pace t_target=20,t_draft=10 --pace t_target=20,t_draft=4 --pace t_target=20,t_draft=2

Each BUNDLE has a draft model (`specrt build MODEL --draft DRAFT -o BUNDLE`); bundles of one target
with drafts of several sizes compare these. DATA holds TASK.jsonl or TASK.jsonl.gz of gsm8k,
humaneval, mbpp, mt_bench, wikisql and e2e_nlg, rows {"prompt"} or {"turns"}. Writes pearl.jsonl,
.md and .png into OUT, and fails if an output differs from autoregressive decoding. Needs
matplotlib: pip install 'specrt[bench]'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from specrt import Error, __version__
from specrt.bundle import Bundle
from specrt.cli.options import count, named_bundle, pace
from specrt.eval.machine import source_commit
from specrt.eval.pearl import (
    METHODS,
    DraftLength,
    PearlRun,
    differing,
    pearl_json,
    pearl_markdown,
    run_pearl,
)
from specrt.eval.pearl_plot import draw_pearl
from specrt.eval.plot import check_plot
from specrt.eval.task_prompts import task_prompts
from task_study import add_arguments, bench_options, place_text, result_folder, write_rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes; 1 if an output differed, 2 for bad arguments."""
    args = _parser().parse_args(arguments)
    out = result_folder(args)
    paces = args.pace if args.paced_only else [None, *args.pace]
    try:
        if not paces:
            raise ValueError("--paced-only needs --pace")
        options = bench_options(args)
        check_plot(out / "pearl.png", options.methods)
        prompts = task_prompts(args.data, args.limit)
        bundles = _bundles(args.bundles)
        runs = run_pearl(
            bundles, prompts, options, paces, args.draft_length, progress=sys.stderr.isatty()
        )
    except (ValueError, Error) as error:
        print(f"bench_pearl: error: {error}", file=sys.stderr)
        return 2
    _write(runs, out)
    different = differing(runs)
    for where in different:
        print(f"the output differs from autoregressive decoding: {where}", file=sys.stderr)
    return 1 if different else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("bundles", metavar="BUNDLE", nargs="+", help='folder made by `specrt build`, or "demo"')
    add_arguments(parser, METHODS)
    add(
        "--pace",
        type=pace,
        action="append",
        default=[],
        metavar="t_target=MS,t_draft=MS",
        help="measure also with steps that last at least so long; may be given several times",
    )
    add("--paced-only", action="store_true", help="leave out steps as fast as they are")
    add(
        "--draft-length",
        type=_draft_length,
        default="ratio",
        metavar="K",
        help="tokens drafted in every round; ratio: t_target / t_draft, as in the paper; "
        "adaptive: as many as should pay (default: %(default)s)",
    )
    return parser


def _bundles(words: Sequence[str]) -> dict[str, Bundle]:
    names = [Path(word).resolve().name for word in words]
    if len(set(names)) < len(names):
        raise ValueError(f"bundles must have different names, not {', '.join(names)}")
    return {name: named_bundle(word) for name, word in zip(names, words, strict=True)}


def _draft_length(text: str) -> DraftLength:
    if text == "ratio":
        return "ratio"
    return "adaptive" if text == "adaptive" else count(text)


def _write(runs: Sequence[PearlRun], out: Path) -> None:
    place = place_text(runs[0].run)
    write_rows(pearl_json(runs, __version__, source_commit()), out / "pearl.jsonl")
    text = pearl_markdown(runs, place)
    (out / "pearl.md").write_text(text, encoding="utf-8")
    draw_pearl(runs, place, out / "pearl.png")
    print(text)


if __name__ == "__main__":
    sys.exit(main())

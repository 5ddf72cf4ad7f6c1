"""specrt bench: measures methods against each other in one run."""

import argparse
import json
import sys
from pathlib import Path

from specrt.bundle import Bundle
from specrt.cli.options import add_bundle, add_drafting, add_threads, count, named_bundle

HELP = "measure methods against each other"
_DESCRIPTION = """\
Completes prompts with every method in turn, in one process, and compares speed and output.
tokens/s is decoding alone: the prompt and the first token, which belongs to it, are left out
(see TTFT). Writes one JSON object a line for every group of prompts and method; a group is a file
and a category in it, and "all" is everything."""
_EPILOG = """example:
  %(prog)s demo --prompts prompts.jsonl --limit 20 --json results.jsonl

Rows of a prompt file: {"prompt": text} or {"turns": [text, ...]}, optionally "category".
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add_bundle(parser)
    add = parser.add_argument
    add(
        "--methods",
        default="autoregressive,speculative",
        metavar="NAMES",
        help="separated by commas (default: %(default)s)",
    )
    add(
        "--prompts",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help="JSON lines, .gz allowed",
    )
    add("--limit", type=count, metavar="N", help="first N prompts of every file (default: all)")
    add("--max-new-tokens", type=count, default=128, metavar="N", help="default: %(default)s")
    add("--temperature", type=float, default=0.0, metavar="T", help="default: 0, greedy")
    add("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    add("--repeats", type=count, default=1, metavar="R", help="of every prompt; times: the median")
    add("--raw", action="store_true", help="no chat template")
    add_drafting(parser)
    add_threads(parser)
    add("--json", type=Path, metavar="OUT", help="file to write")


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table, writes the rows."""
    from specrt import __version__
    from specrt.eval.bench import BenchOptions, run_bench
    from specrt.eval.machine import source_commit
    from specrt.eval.prompts import read_prompts
    from specrt.eval.report import bench_rows, json_rows
    from specrt.eval.table import BENCH_LEGEND, bench_table

    options = BenchOptions(
        methods=tuple(name.strip() for name in args.methods.split(",")),
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        seed=args.seed,
        threads=args.threads,
        num_speculative_tokens=args.num_speculative_tokens,
        repeats=args.repeats,
        raw=args.raw,
    )
    if args.json is not None and not args.json.parent.is_dir():
        raise ValueError(f"there is no folder {args.json.parent} for --json")
    prompts = [prompt for file in args.prompts for prompt in read_prompts(file, args.limit)]
    bundle = named_bundle(args.bundle)
    result = run_bench(bundle, prompts, options, progress=sys.stderr.isatty())
    rows = bench_rows(result)
    print(f"{result.machine.cpu_model}, {result.threads} threads, {result.backend}")
    print(bench_table(rows))
    print(BENCH_LEGEND)
    if result.skipped:
        print(f"Prompts left out because they do not fit into the context: {result.skipped}.")
    if args.num_speculative_tokens is not None:
        _print_advice(bundle, args.num_speculative_tokens, rows[-1].accepted_at_position)
    if args.json is not None:
        objects = json_rows(result, __version__, source_commit())
        args.json.write_text("".join(json.dumps(row) + "\n" for row in objects), encoding="utf-8")
    return 0


def _print_advice(bundle: Bundle, drafted: int, accepted_shares: list[float]) -> None:
    """Says which draft length the acceptance of this run favours, if it is another one."""
    from specrt.eval.draft_length import best_measured_length, step_costs

    costs = step_costs(bundle.curves) if bundle.curves is not None else None
    if costs is None or not accepted_shares:
        return
    best = best_measured_length(costs, accepted_shares)
    if best.draft_length not in (0, drafted):
        print(
            f"By this acceptance, --num-speculative-tokens {best.draft_length} should be best: "
            f"{best.speedup:.2f}x predicted."
        )

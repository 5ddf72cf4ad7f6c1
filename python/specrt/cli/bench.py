"""specrt bench: measures methods against each other in one run."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specrt.bundle import Bundle
from specrt.cli.options import (
    add_bundle,
    add_drafting,
    add_rule,
    add_threads,
    count,
    named_bundle,
    pace,
)
from specrt.eval.output_files import check_output_files, with_name_inside

if TYPE_CHECKING:
    from specrt.eval.bench import BenchRun
    from specrt.eval.report import BenchRow

HELP = "measure methods against each other"
_DESCRIPTION = """\
Completes prompts with every method in turn, in one process, and compares speed and output.
tokens/s is decoding alone: the prompt and the first token, which belongs to it, are left out
(see TTFT). A group of prompts is a file and a category in it, and "all" is everything."""
_EPILOG = """examples:
  %(prog)s demo --prompts prompts.jsonl --limit 20 --json results.jsonl
  %(prog)s demo --prompts question.jsonl --methods autoregressive,speculative,ngram \\
      --trace rounds.jsonl --answers answers.jsonl --plot results.png

Rows of a prompt file: {"prompt": text} or {"turns": [text, ...]}, optionally "category" and "id"
(or Spec-Bench's "question_id"). Turns are a conversation: each answer goes into the next prompt
through the chat template. Without a template, or with --raw, only the first turn is run.
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
        help="separated by commas (default: %(default)s); for studies, pearl@pre_verify_only and "
        "pearl@post_verify_only are one phase of pearl alone",
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
    add(
        "--pace",
        type=pace,
        metavar="t_target=MS,t_draft=MS",
        help="paced mode: steps of the target and the draft model last at least so many "
        "milliseconds, as if each had a device of that speed",
    )
    add_rule(parser)
    add_drafting(parser)
    add_threads(parser)
    files = parser.add_argument_group("files to write")
    files.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="one JSON object a line for every group and method",
    )
    files.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="one JSON object a line for every decoding round; its time is as the host saw it, so "
        "leave the host a core (--threads)",
    )
    files.add_argument(
        "--answers",
        type=Path,
        metavar="FILE",
        help="answers as Spec-Bench's scripts read them, one file a method: of several methods, "
        "each puts its name before the suffix (answers.speculative.jsonl)",
    )
    files.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="speed-up by group and acceptance by draft position, as .png, .svg or .pdf; needs "
        "matplotlib (pip install 'specrt[bench]')",
    )


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table, writes the files."""
    from specrt.eval.bench import BenchOptions, run_bench
    from specrt.eval.prompts import read_prompts
    from specrt.eval.report import bench_rows

    options = BenchOptions(
        methods=tuple(name.strip() for name in args.methods.split(",")),
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        seed=args.seed,
        threads=args.threads,
        num_speculative_tokens=args.num_speculative_tokens,
        repeats=args.repeats,
        raw=args.raw,
        rule=args.rule,
        pace=args.pace,
    )
    answer_files = _answer_files(args.answers, options.methods)
    _check_files(args, options.methods, answer_files)
    prompts = [prompt for file in args.prompts for prompt in read_prompts(file, args.limit)]
    bundle = named_bundle(args.bundle)
    result = run_bench(bundle, prompts, options, progress=sys.stderr.isatty())
    rows = bench_rows(result)
    _print_results(result, rows)
    if args.num_speculative_tokens is not None:
        _print_advice(bundle, args.num_speculative_tokens, rows[-1].accepted_at_position)
    _write_files(args, result, rows, answer_files)
    return 0


def _answer_files(path: Path | None, methods: tuple[str, ...]) -> tuple[Path, ...]:
    """One for every method; none if they are not wanted."""
    if path is None:
        return ()
    if len(methods) == 1:
        return (path,)
    return tuple(with_name_inside(path, method) for method in methods)


def _check_files(
    args: argparse.Namespace, methods: tuple[str, ...], answer_files: tuple[Path, ...]
) -> None:
    from specrt.eval.plot import check_plot

    single = {"--json": args.json, "--trace": args.trace, "--plot": args.plot}
    named = {option: [path] for option, path in single.items() if path is not None}
    check_output_files(named | {"--answers": answer_files}, args.prompts)
    if args.plot is not None:
        check_plot(args.plot, methods)


def _write_files(
    args: argparse.Namespace,
    result: "BenchRun",
    rows: "list[BenchRow]",
    answer_files: tuple[Path, ...],
) -> None:
    from specrt import __version__
    from specrt.eval.answers import answer_rows
    from specrt.eval.machine import source_commit
    from specrt.eval.plot import draw
    from specrt.eval.report import json_rows
    from specrt.eval.trace import trace_rows

    if args.json is not None:
        _write_lines(args.json, json_rows(result, __version__, source_commit()))
    if args.trace is not None:
        _write_lines(args.trace, trace_rows(result))
    model = Path(args.bundle).resolve().name
    for method, path in zip(result.methods, answer_files, strict=False):
        _write_lines(path, answer_rows(method, model))
    if args.plot is not None:
        draw(rows, f"{model}: {_place(result)}", args.plot)


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _place(result: "BenchRun") -> str:
    place = f"{result.machine.cpu_model}, {result.threads} threads, {result.backend}"
    paced = result.options.pace
    return place if paced is None else f"{place}, {paced.text}"


def _print_results(result: "BenchRun", rows: "list[BenchRow]") -> None:
    from specrt.eval.table import BENCH_LEGEND, bench_table

    print(_place(result))
    print(bench_table(rows))
    print(BENCH_LEGEND)
    if result.skipped:
        print(f"Prompts left out because they do not fit into the context: {result.skipped}.")
    if result.skipped_turns:
        print(
            "Later turns left out because they do not fit into the context or there is no chat "
            f"template: {result.skipped_turns}."
        )


def _print_advice(bundle: Bundle, drafted: int, accepted_shares: list[float]) -> None:
    """Says which draft length the acceptance of this run favours, if it is another one."""
    from specrt.eval.cost_model import best_as_measured
    from specrt.eval.step_costs import step_costs

    costs = step_costs(bundle.curves) if bundle.curves is not None else None
    if costs is None or not accepted_shares:
        return
    best = best_as_measured(costs, accepted_shares)
    if best.draft_length not in (0, drafted):
        print(
            f"By this acceptance, --num-speculative-tokens {best.draft_length} should be best: "
            f"{best.speedup:.2f}x predicted."
        )

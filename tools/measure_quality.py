#!/usr/bin/env python3
"""Quality of models on tasks with references: exact match of queries, ROUGE of texts.

    python tools/measure_quality.py NAME=BUNDLE ... --data DATA --tasks wikisql e2e_nlg

DATA holds TASK.jsonl or TASK.jsonl.gz, rows {"prompt", "reference"} with one reference or a list.
Answers are greedy and take the bundle's fastest method. Prints a table, and writes it to --out.
Needs rouge-score: pip install 'specrt[bench]'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from specrt import LLM, Error, SamplingParams
from specrt.bundle import Bundle
from specrt.cli.options import count
from specrt.eval.prompts import Prompt, encode_prompt
from specrt.eval.task_prompts import task_prompts
from specrt.eval.task_quality import TaskQuality, quality_table, task_quality
from task_study import bundles_by_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes; 2 for bad arguments."""
    args = _parser().parse_args(arguments)
    try:
        bundles = bundles_by_name(args.bundles)
        prompts = task_prompts(args.data, args.limit, args.tasks)
        models = {name: measure(bundle, prompts, args) for name, bundle in bundles.items()}
    except (ValueError, Error) as error:
        print(f"measure_quality: error: {error}", file=sys.stderr)
        return 2
    text = "\n".join(quality_table(models)) + "\n"
    print(text, end="")
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    return 0


def measure(
    bundle: Bundle, prompts: Sequence[Prompt], args: argparse.Namespace
) -> list[TaskQuality]:
    """Quality of one model on all tasks."""
    llm = LLM(bundle, threads=args.threads)
    params = SamplingParams(temperature=0.0, max_tokens=args.max_new_tokens)
    answers = llm.generate(
        [encode_prompt(llm.tokenizer, prompt.text) for prompt in prompts], params
    )
    return task_quality(prompts, [answer.text.strip() for answer in answers])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("bundles", metavar="NAME=BUNDLE", nargs="+")
    add("--data", type=Path, required=True, help="folder of the tasks' prompts")
    add("--tasks", nargs="+", required=True)
    add("--limit", type=count, default=200, help="prompts of every task (default: %(default)s)")
    add("--max-new-tokens", type=count, default=128, help="default: %(default)s")
    add("--threads", type=count, help="default: all")
    add("--out", type=Path, help="a file for the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())

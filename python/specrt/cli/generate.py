"""specrt generate: completes prompts."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from specrt.cli.options import (
    add_bundle,
    add_drafting,
    add_method,
    add_rule,
    add_sampling,
    add_threads,
    named_bundle,
    sampling_params,
)
from specrt.cli.summary import summary
from specrt.eval.prompts import Prompt, encode_prompt, read_prompts
from specrt.llm import LLM
from specrt.outputs import RequestOutput
from specrt.sampling_params import SamplingParams

HELP = "complete prompts"
_DESCRIPTION = """\
Completes a prompt from the command line, prompts of a file, or all of stdin as one prompt. The
completion goes to stdout, a line about its speed to stderr. The drafting method never changes
the completion, unless --rule says so."""
_EPILOG = """examples:
  %(prog)s demo "Write a SQL query that lists all users." --stream
  %(prog)s demo --prompts prompts.jsonl --jsonl answers.jsonl --max-tokens 64
  echo "What is 12 times 7?" | %(prog)s demo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add_bundle(parser)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="text (default: read stdin)")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='JSON lines with "prompt" (or "turns", of which the first is taken), or .gz',
    )
    add_method(parser)
    add_drafting(parser)
    add_rule(parser)
    add_sampling(parser, max_tokens=256)
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--chat", action="store_true", help="require the chat template")
    style.add_argument(
        "--raw",
        action="store_true",
        help="feed prompts as they are (default: in the chat template, if there is one)",
    )
    parser.add_argument("--stream", action="store_true", help="print text as it is generated")
    parser.add_argument(
        "--jsonl", metavar="OUT", help='write JSON lines instead of text; "-" is stdout'
    )
    parser.add_argument("--quiet", action="store_true", help="no line about speed on stderr")
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Completes all prompts."""
    prompts = _prompts(args)
    if args.stream and args.jsonl:
        raise ValueError("--stream prints text and --jsonl writes JSON; use one of them")
    params = sampling_params(args)
    llm = LLM(
        named_bundle(args.bundle),
        args.method,
        num_speculative_tokens=args.num_speculative_tokens,
        threads=args.threads,
        rule=args.rule,
    )
    if args.chat and not llm.tokenizer.has_chat_template:
        raise ValueError(f"{args.bundle} has no chat template; use --raw")
    with _json_file(args.jsonl) as file:
        for prompt in prompts:
            ids = encode_prompt(llm.tokenizer, prompt.text, raw=args.raw)
            output = _stream(llm, ids, params) if args.stream else llm.generate([ids], params)[0]
            if file is not None:
                print(json.dumps(_json_row(prompt, output), ensure_ascii=False), file=file)
            elif not args.stream:
                print(output.text, flush=True)
            if not args.quiet:
                print(summary(output), file=sys.stderr)
    return 0


def _prompts(args: argparse.Namespace) -> list[Prompt]:
    if args.prompts is not None:
        if args.prompt is not None:
            raise ValueError("give PROMPT or --prompts, not both")
        return read_prompts(args.prompts)
    if args.prompt is not None:
        return [Prompt(args.prompt)]
    if sys.stdin.isatty():
        print("Type a prompt; Ctrl-D ends it.", file=sys.stderr)
    text = sys.stdin.read().removesuffix("\n")
    if not text:
        raise ValueError("there is no prompt: give PROMPT, --prompts FILE, or text on stdin")
    return [Prompt(text)]


def _stream(llm: LLM, ids: list[int], params: SamplingParams) -> RequestOutput:
    for chunk in llm.stream(ids, params):
        print(chunk.text, end="", flush=True)
        if chunk.output is not None:
            print()
            return chunk.output
    raise AssertionError("the stream ended without an output")


@contextlib.contextmanager
def _json_file(name: str | None) -> Iterator[TextIO | None]:
    if name is None or name == "-":
        yield sys.stdout if name else None
        return
    with Path(name).open("w", encoding="utf-8") as file:
        yield file


def _json_row(prompt: Prompt, output: RequestOutput) -> dict[str, Any]:
    metrics = output.metrics
    drafting = metrics.speculative_decoding
    row: dict[str, Any] = {} if prompt.id == "" else {"id": prompt.id}
    return row | {
        "prompt": prompt.text,
        "text": output.text,
        "token_ids": output.token_ids,
        "finish_reason": output.finish_reason,
        "seed": output.seed,
        "method": output.method,
        "metrics": {
            "prompt_tokens": metrics.prompt_tokens,
            "completion_tokens": metrics.completion_tokens,
            "ttft_ms": round(metrics.ttft_ms, 3),
            "tpot_ms": round(metrics.tpot_ms, 4),
            "total_ms": round(metrics.total_ms, 3),
            "tokens_per_second": round(metrics.tokens_per_second, 2),
            "speculative_decoding": drafting
            and asdict(drafting) | {"draft_acceptance_rate": drafting.draft_acceptance_rate},
        },
    }

"""specrt demo: the packaged models, live and measured."""

import argparse
import sys
import textwrap
from collections.abc import Sequence

from specrt.bundle import Bundle
from specrt.cli.options import add_threads, named_bundle
from specrt.demo import DEMO
from specrt.eval.bench import BASELINE, BenchOptions, run_bench
from specrt.eval.prompts import Prompt, encode_prompt
from specrt.eval.report import ALL, BenchRow, bench_rows
from specrt.eval.table import identical_text, speedup_text, text_table
from specrt.llm import LLM
from specrt.methods import STREAMING
from specrt.sampling_params import SamplingParams

HELP = "see it work, with small packaged models"
_DESCRIPTION = """\
Answers a few prompts with a small packaged model, live: without drafts, with those of a draft
model, with those of a drafter that fills masks and with its own (Speculative Streaming), and ends
with a comparison. The models are compiled on the first run and kept in the cache folder. They show
the speed of the runtime; their answers are those of very small models."""
_EPILOG = """example:
  %(prog)s
"""
_METHODS = (BASELINE, "speculative", "parallel", STREAMING)
_MAX_TOKENS = 96
_REPEATS = 3

PROMPTS = (
    Prompt(
        "Write a SQL query that answers the question.\n"
        "CREATE TABLE harbours (name VARCHAR, country VARCHAR, depth INTEGER)\n"
        "Question: What is the largest depth of a harbour whose country is Norway?\n"
        "SQL:",
        category="SQL",
    ),
    Prompt(
        "Convert the meaning representation into a sentence.\n"
        "name[The Lantern], eatType[pub], food[Italian], priceRange[moderate], area[riverside], "
        "familyFriendly[yes]",
        category="data to text",
    ),
    Prompt(
        "Nora bakes 6 trays of buns with 8 buns on every tray. She sells 30 buns for $2 each. "
        "How many buns are left, and how much money does she make?",
        category="maths",
    ),
    Prompt(
        "Write a function to count the even numbers in a list.\n"
        "Your code should pass this test:\n"
        "assert count_even([1, 2, 4, 7])==2",
        category="code",
    ),
    Prompt("What are three good habits for a healthy life?", category="chat"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Shows the prompts live, then measures them again without printing."""
    bundle = named_bundle(DEMO)
    llms = [LLM(bundle, method, threads=args.threads) for method in _METHODS]
    print(f"specrt on {llms[0].core.backend}, {llms[0].threads} threads; greedy decoding")
    for prompt in PROMPTS:
        _show(prompt, llms)
    del llms
    print("\nMeasuring the methods on these prompts, in turn ...", flush=True)
    rows = _measure(bundle, args.threads)
    print(f"\n{_table(rows)}")
    print("\nDecoding speed over all five prompts; the prompt itself is not counted.")
    return 0 if all(row.identical_to_autoregressive for row in rows) else 1


def _show(prompt: Prompt, llms: Sequence[LLM]) -> None:
    """Streams one prompt with every method."""
    title = f"--- {prompt.category} "
    print(f"\n{title:-<72}")
    print(textwrap.indent(prompt.text, "  "))
    params = SamplingParams(temperature=0.0, max_tokens=_MAX_TOKENS)
    for llm in llms:
        print(f"\n[{llm.method}]", flush=True)
        for chunk in llm.stream(encode_prompt(llm.tokenizer, prompt.text), params):
            sys.stdout.write(chunk.text)
            sys.stdout.flush()
            if chunk.output is not None:
                metrics = chunk.output.metrics
                tokens = metrics.completion_tokens
                speed = f"{metrics.tokens_per_second:,.0f} tokens/s"
                print(f"\n    {tokens} tokens in {len(metrics.rounds) + 1} steps, {speed}")


def _measure(bundle: Bundle, threads: int | None) -> list[BenchRow]:
    options = BenchOptions(
        methods=_METHODS, max_new_tokens=_MAX_TOKENS, threads=threads, repeats=_REPEATS
    )
    rows = bench_rows(run_bench(bundle, PROMPTS, options))
    return [row for row in rows if row.category == ALL]


def _table(rows: Sequence[BenchRow]) -> str:
    heads = ("method", "tokens/s", "speed-up", "tokens a round", "identical output")
    lines: list[Sequence[str]] = [heads]
    for row in rows:
        lines.append(
            (
                row.method,
                f"{row.tokens_per_second:,.0f}",
                speedup_text(row.speedup_vs_autoregressive),
                f"{row.mean_acceptance_length:.2f}",
                identical_text(row.identical_to_autoregressive),
            )
        )
    return text_table(lines, texts=1)

"""What the benchmarks over tasks share: arguments, and where results go."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from specrt.bundle import Bundle
from specrt.cli.options import count, named_bundle
from specrt.eval.bench import BenchOptions, BenchRun
from specrt.eval.machine import this_machine

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def add_arguments(parser: argparse.ArgumentParser, methods: Iterable[str] | None) -> None:
    """Adds the arguments of every such benchmark; `methods` are its own, None: of the bundle."""
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the tasks' prompts")
    add("--out", type=Path, help="folder to write (default: benchmarks/results/DATE-MACHINE)")
    default = None if methods is None else ",".join(methods)
    add("--methods", default=default, help=f"default: {default or 'all that the bundle can run'}")
    add("--limit", type=count, default=8, help="prompts of every task (default: %(default)s)")
    add("--repeats", type=count, default=3, help="times are the median (default: %(default)s)")
    add("--max-new-tokens", type=count, default=128, help="default: %(default)s")
    add("--threads", type=count, help="default: all")
    add("--seed", type=int, default=0)


def bench_options(args: argparse.Namespace, methods: Iterable[str] = ()) -> BenchOptions:
    """What `add_arguments` added; `methods` run if none were named."""
    named = None if args.methods is None else args.methods.split(",")
    return BenchOptions(
        methods=tuple(methods if named is None else (name.strip() for name in named)),
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        threads=args.threads,
        repeats=args.repeats,
    )


def result_folder(args: argparse.Namespace) -> Path:
    """The one asked for, or one for today and this machine (2026-01-31-amd-epyc-2-cores)."""
    if args.out is not None:
        return Path(args.out)
    machine = this_machine()
    model = re.sub(r"[^a-z0-9]+", "-", machine.cpu_model.lower()).strip("-")
    return RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{model}-{machine.cores}-cores"


def bundles_by_name(words: Iterable[str]) -> dict[str, Bundle]:
    """Bundles of arguments NAME=BUNDLE. Raises ValueError."""
    bundles: dict[str, Bundle] = {}
    for word in words:
        name, _, path = word.partition("=")
        if not name or not path or name in bundles:
            raise ValueError(f"bundles are NAME=BUNDLE, each name once, not {word!r}")
        bundles[name] = named_bundle(path)
    return bundles


def place_text(run: BenchRun) -> str:
    """Where a run was measured."""
    return f"{run.machine.cpu_model}, {run.threads} threads, {run.backend}"


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """JSON lines; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)

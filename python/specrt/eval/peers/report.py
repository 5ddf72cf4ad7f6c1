"""Runs the variants over the prompts in turn and lays the results out as one table and JSON."""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from specrt.eval.peers.records import Generation, NotMeasured, PeerError, Prompt, StepTime, Variant


@dataclass(frozen=True)
class Row:
    """One variant over all prompts: medians over the repeats, rates in tokens per second.

    `tokens_per_s` is Spec-Bench's (prefill included, summed over prompts here), `decode_per_s`
    leaves the prefill out. `x_plain` is against the same peer's plain decoding in this run.
    `spread` is (max - min) / median of decode_per_s over the repeats.
    """

    peer: str
    label: str
    prompts: int
    tokens: int
    tokens_per_s: float
    decode_per_s: float
    spread: float
    prefill_ms: float
    x_plain: float | None
    mean_acceptance_length: float | None
    draft_acceptance_rate: float | None
    same_text: int  # prompts whose text equals the reference variant's


Runs = dict[str, list[list[Generation]]]


def run_variants(
    variants: Sequence[Variant], prompts: Sequence[Prompt], repeats: int
) -> tuple[Runs, list[NotMeasured]]:
    """Every variant over all prompts, `repeats` times in turn so that drift hits all alike.

    A variant first does the first prompt unmeasured. One that fails is dropped with its reason.
    """
    runs: Runs = {variant.name: [] for variant in variants}
    missing: list[NotMeasured] = []
    for repeat in range(repeats):
        for variant in variants:
            if variant.name not in runs:
                continue
            print(f"[{repeat + 1}/{repeats}] {variant.name}", file=sys.stderr)
            try:
                if repeat == 0:
                    variant.generate(prompts[0])
                runs[variant.name].append([variant.generate(prompt) for prompt in prompts])
            except Exception as error:
                reason = str(error) if isinstance(error, PeerError) else repr(error)
                missing.append(NotMeasured(variant.peer, variant.label, reason))
                del runs[variant.name]
    return runs, missing


def make_rows(variants: Sequence[Variant], runs: Runs, reference: str | None) -> list[Row]:
    """The table's rows. `reference` names the variant whose texts the others are held against."""
    measured = [variant for variant in variants if variant.name in runs]
    plain = {
        (v.peer, v.label): _median([_decode_rate(run) for run in runs[v.name]]) for v in measured
    }
    texts = [g.text for g in runs[reference][0]] if reference in runs else []
    rows = []
    for v in measured:
        repeats = runs[v.name]
        rates = [_decode_rate(run) for run in repeats]
        first = repeats[0]
        base = plain.get((v.peer, v.baseline))
        rows.append(
            Row(
                peer=v.peer,
                label=v.label,
                prompts=len(first),
                tokens=sum(g.tokens for g in first),
                tokens_per_s=_median([_total_rate(run) for run in repeats]),
                decode_per_s=_median(rates),
                spread=(max(rates) - min(rates)) / _median(rates),
                prefill_ms=1e3 * _median([sum(g.prefill_s for g in r) / len(r) for r in repeats]),
                x_plain=_median(rates) / base if base else None,
                mean_acceptance_length=_acceptance_length(first),
                draft_acceptance_rate=_acceptance_rate(first),
                same_text=sum(g.text == text for g, text in zip(first, texts, strict=False)),
            )
        )
    return rows


def _median(values: Sequence[float]) -> float:
    return median(values) if values else math.nan


def _decode_rate(run: Sequence[Generation]) -> float:
    seconds = sum(g.decode_s for g in run)
    return sum(g.decode_tokens for g in run) / seconds if seconds else math.nan


def _total_rate(run: Sequence[Generation]) -> float:
    seconds = sum(g.prefill_s + g.decode_s for g in run)
    return sum(g.tokens for g in run) / seconds if seconds else math.nan


def _acceptance_length(run: Sequence[Generation]) -> float | None:
    rounds = sum(g.rounds or 0 for g in run)
    return sum(g.decode_tokens for g in run) / rounds if rounds else None


def _acceptance_rate(run: Sequence[Generation]) -> float | None:
    drafted = sum(g.drafted or 0 for g in run)
    return sum(g.accepted or 0 for g in run) / drafted if drafted else None


def format_report(
    rows: Sequence[Row],
    steps: Sequence[StepTime],
    missing: Sequence[NotMeasured],
    facts: Mapping[str, Mapping[str, str]],
) -> str:
    """The tables as text."""
    lines: list[str] = []
    for owner, items in facts.items():
        lines += [f"{owner}: {name} = {value}" for name, value in items.items()]
    if steps:
        lines += ["", f"{'one forward of N rows':30} {'rows':>5} {'cached':>7} {'ms':>9}"]
    for s in sorted(steps, key=lambda s: (s.rows, s.ms)):
        lines.append(f"{s.peer + ' ' + s.label:30} {s.rows:5d} {s.depth:7d} {s.ms:9.3f}")
    if rows:
        lines += [
            "",
            f"{'greedy generation':30} {'tok/s':>8} {'decode/s':>9} {'spread':>7} {'prefill':>8} "
            f"{'x plain':>8} {'tau':>6} {'accept':>7} {'tokens':>7} {'same text':>10}",
        ]
    for r in sorted(rows, key=lambda r: -r.decode_per_s):
        lines.append(
            f"{r.peer + ' ' + r.label:30} {r.tokens_per_s:8.1f} {r.decode_per_s:9.1f} "
            f"{100 * r.spread:6.1f}% {r.prefill_ms:6.2f}ms {_cell(r.x_plain):>8} "
            f"{_cell(r.mean_acceptance_length):>6} {_cell(r.draft_acceptance_rate):>7} "
            f"{r.tokens:7d} {f'{r.same_text}/{r.prompts}':>10}"
        )
    if missing:
        lines.append("")
    lines += [f"{m.peer} {m.label}: not measured: {m.reason}" for m in missing]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def to_json(
    rows: Sequence[Row],
    steps: Sequence[StepTime],
    missing: Sequence[NotMeasured],
    facts: Mapping[str, Mapping[str, str]],
    options: Mapping[str, object],
) -> dict[str, object]:
    """Everything in the report, plus the options of the run."""
    return {
        "options": dict(options),
        "facts": {owner: dict(items) for owner, items in facts.items()},
        "steps": [asdict(step) for step in steps],
        "generation": [asdict(row) for row in rows],
        "not_measured": [asdict(item) for item in missing],
    }


def machine() -> dict[str, str]:
    """CPU name, cores and the load before the run; no host name."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": str(os.cpu_count()),
        "load_1min": f"{os.getloadavg()[0]:.2f}",
        "system": f"{platform.system()} {platform.machine()}",
    }

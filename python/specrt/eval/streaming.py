"""Benchmark of Speculative Streaming against the other methods, with ablations of its settings.

Adapters of other shapes are bundles of their own, each measured against its own autoregressive
decoding on the same prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from specrt.bundle import Bundle
from specrt.eval.bench import BASELINE, BenchOptions, BenchRun, run_bench
from specrt.eval.prompts import Prompt
from specrt.eval.report import ALL, BenchRow, bench_rows, json_rows
from specrt.eval.study_tables import acceptance_table, differing_rows, speed_table
from specrt.eval.table import markdown_table, speedup_text
from specrt.methods import STREAMING

TASKS = ("dialogsum", "wikisql", "spider", "e2e_nlg", "mt_bench", "gsm8k")
METHODS = (BASELINE, "speculative", "parallel", STREAMING)
_TREES = (4, 8, 15)  # nodes
_KEPT = (4, 8)  # of the largest tree


def default_ablations(streams: int) -> tuple[str, ...]:
    """Settings of an adapter with so many streams: chains, trees, and trees that are pruned."""
    chains = (f"{STREAMING}@tokens={tokens}+nodes=0" for tokens in range(1, streams + 1))
    most = f"{STREAMING}@tokens={streams}"
    trees = (f"{most}+nodes={nodes}" for nodes in _TREES)
    pruned = (f"{most}+nodes={_TREES[-1]}+kept={kept}" for kept in _KEPT)
    return (*chains, *trees, *pruned)


@dataclass(frozen=True)
class StreamingRun:
    """What was measured.

    Attributes:
        runs: every method, by temperature.
        ablations: settings of streaming, greedy; None if there are none.
        others: greedy runs of other bundles, by their names.
        adapters: what the manifests say of the adapters, by bundle; "" is the first.
    """

    runs: Mapping[float, BenchRun]
    ablations: BenchRun | None = None
    others: Mapping[str, BenchRun] = field(default_factory=dict)
    adapters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def all_runs(self) -> Mapping[str, BenchRun]:
        """Every run, by where it belongs."""
        named = {f"temperature {temperature:g}": run for temperature, run in self.runs.items()}
        ablations = {"ablations": self.ablations} if self.ablations is not None else {}
        return named | ablations | {f"bundle {name}": run for name, run in self.others.items()}

    @property
    def differing(self) -> list[str]:
        """Where tokens were not those of autoregressive decoding."""
        return [
            f"{where}, {place}"
            for place, run in self.all_runs.items()
            for where in differing_rows(bench_rows(run))
        ]


def adapter_of(bundle: Bundle) -> Mapping[str, Any]:
    """What the manifest says of a target's streams. Raises ValueError if it has none."""
    if not bundle.streams:
        raise ValueError(f"the target of {bundle.path} has no streams")
    entry: Mapping[str, Any] = bundle.manifest["target"]["streaming"]
    return entry


def run_streaming(
    bundle: Bundle,
    prompts: Sequence[Prompt],
    options: BenchOptions,
    temperatures: Sequence[float],
    ablations: Sequence[str] = (),
    others: Mapping[str, Bundle] | None = None,
    *,
    progress: bool = False,
) -> StreamingRun:
    """Measures methods at every temperature, then the ablations and the other bundles, greedy.

    Raises:
        ValueError: a method is not possible, a bundle has no streams, or `options` leave out
            autoregressive decoding or change its tokens.
    """
    if BASELINE not in options.methods or options.rule != "exact":
        raise ValueError(f"outputs are compared with {BASELINE}, under the rule exact")
    bundles = {"": bundle, **(others or {})}
    adapters = {name: adapter_of(each) for name, each in bundles.items()}

    def run(which: Bundle, methods: Sequence[str], temperature: float) -> BenchRun:
        chosen = replace(options, methods=tuple(methods), temperature=temperature)
        return run_bench(which, prompts, chosen, progress=progress)

    return StreamingRun(
        runs={t: run(bundle, options.methods, t) for t in temperatures},
        ablations=run(bundle, (BASELINE, *ablations), 0.0) if ablations else None,
        others={
            name: run(each, (BASELINE, STREAMING), 0.0) for name, each in (others or {}).items()
        },
        adapters=adapters,
    )


def streaming_json(result: StreamingRun, version: str, commit: str | None) -> list[dict[str, Any]]:
    """Rows of `bench`, each with the part of the study that it belongs to."""
    return [
        row | {"part": place}
        for place, run in result.all_runs.items()
        for row in json_rows(run, version, commit)
    ]


def streaming_markdown(result: StreamingRun, place: str) -> str:
    """The report: speed by task, acceptance by position, extra parameters, ablations."""
    parts = ["# Speculative Streaming\n", f"{place}.\n"]
    parts += [
        "The mean acceptance length is the call reduction: tokens for each step of the target.\n"
    ]
    for temperature, run in result.runs.items():
        rows = bench_rows(run)
        parts += [f"## Temperature {temperature:g}\n", *speed_table(rows), ""]
        parts += [
            "Share of rounds whose draft held up to each position, all prompts:\n",
            *acceptance_table(rows),
            "",
        ]
    parts += ["## Extra parameters\n", *_parameter_table(result), ""]
    if result.ablations is not None:
        parts += ["## Settings, all prompts, greedy\n", *_ablation_table(result.ablations), ""]
    return "\n".join(parts)


def _parameter_table(result: StreamingRun) -> list[str]:
    head = (
        "bundle",
        "streams",
        "layers with streams",
        "streams and pruning",
        "LoRA",
        "speed-up",
        "mean acceptance length",
    )
    runs = {"": next(iter(result.runs.values())), **result.others}
    lines = []
    for name, adapter in result.adapters.items():
        row = next(
            row for row in bench_rows(runs[name]) if row.category == ALL and row.method == STREAMING
        )
        parameters = adapter["parameters"]
        lines.append(
            (
                name or "this one",
                str(adapter["streams"]),
                str(adapter["layers"]),
                str(parameters["streams"]),
                str(parameters["lora"]),
                speedup_text(row.speedup_vs_autoregressive),
                f"{row.mean_acceptance_length:.2f}",
            )
        )
    return markdown_table(head, lines, texts=1)


def _ablation_table(run: BenchRun) -> list[str]:
    rows: list[BenchRow] = [row for row in bench_rows(run) if row.category == ALL]
    head = ("setting", "speed-up", "mean acceptance length", "ms a round over one step's")
    plain = next(row for row in rows if row.method == BASELINE)
    lines = [
        (
            f"`{row.method}`",
            speedup_text(row.speedup_vs_autoregressive),
            f"{row.mean_acceptance_length:.2f}",
            f"{row.ms_per_round / plain.ms_per_round:.2f}",
        )
        for row in rows
    ]
    return markdown_table(head, lines, texts=1)

"""Benchmark of drafters that fill masks (ParallelSpec) against the other methods, over six tasks.

Temperatures are measured one after the other in one process, methods prompt by prompt (`bench`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from specrt.bundle import Bundle
from specrt.eval.bench import BASELINE, BenchOptions, BenchRun, run_bench
from specrt.eval.draft_cost import DraftCost, draft_cost
from specrt.eval.prompts import Prompt
from specrt.eval.report import BenchRow, bench_rows, json_rows
from specrt.eval.study_tables import acceptance_table, differing_rows, speed_table
from specrt.eval.table import markdown_table
from specrt.llm import LLM

METHODS = (BASELINE, "speculative", "parallel", "pearl:parallel")


@dataclass(frozen=True)
class ParallelSpecRun:
    """Runs by temperature, and what the drafts of each method cost."""

    runs: Mapping[float, BenchRun]
    costs: Mapping[str, DraftCost]

    @property
    def rows(self) -> Mapping[float, Sequence[BenchRow]]:
        """Rows of every run."""
        return {temperature: bench_rows(run) for temperature, run in self.runs.items()}

    @property
    def differing(self) -> list[str]:
        """Where tokens were not those of autoregressive decoding."""
        return [
            f"{where}, temperature {temperature:g}"
            for temperature, rows in self.rows.items()
            for where in differing_rows(rows)
        ]


def run_parallelspec(
    bundle: Bundle,
    prompts: Sequence[Prompt],
    options: BenchOptions,
    temperatures: Iterable[float],
    *,
    progress: bool = False,
) -> ParallelSpecRun:
    """Measures draft costs, then every method at every temperature.

    Args:
        bundle: the models.
        prompts: of all tasks.
        options: what to run; its temperature is replaced.
        temperatures: 0 is greedy.
        progress: whether to show a progress bar.

    Raises:
        ValueError: a method is not possible, or `options` leave out autoregressive decoding or
            change its tokens.
    """
    if BASELINE not in options.methods or options.rule != "exact":
        raise ValueError(f"outputs are compared with {BASELINE}, under the rule exact")
    costs = {}
    for method in options.methods:
        cost = draft_cost(LLM(bundle, method, threads=options.threads))
        if cost is not None:
            costs[method] = cost
    runs = {
        temperature: run_bench(
            bundle, prompts, replace(options, temperature=temperature), progress=progress
        )
        for temperature in temperatures
    }
    return ParallelSpecRun(runs, costs)


def parallelspec_json(
    result: ParallelSpecRun, version: str, commit: str | None
) -> list[dict[str, Any]]:
    """Rows of `bench` with the draft cost of their method."""
    rows = [row for run in result.runs.values() for row in json_rows(run, version, commit)]
    costs = {method: asdict(cost) for method, cost in result.costs.items()}
    return [row | {"draft_cost": costs.get(row["method"])} for row in rows]


def parallelspec_markdown(result: ParallelSpecRun, place: str) -> str:
    """The report: speed by task, acceptance by position, cost of a draft."""
    parts = ["# Drafters that fill masks\n", f"{place}.\n"]
    for temperature, rows in result.rows.items():
        parts += [f"## Temperature {temperature:g}\n", *speed_table(rows), ""]
        parts += [
            "Share of rounds whose draft held up to each position, all prompts:\n",
            *acceptance_table(rows),
            "",
        ]
    parts += [
        "## Cost of a draft\n",
        "Time to draft k tokens over the time to draft one, and one draft token over a step of the",
        "target:\n",
        *_cost_table(result.costs),
        "",
    ]
    return "\n".join(parts)


def _cost_table(costs: Mapping[str, DraftCost]) -> list[str]:
    lengths = next(iter(costs.values())).lengths if costs else ()
    lines = [
        (
            f"`{method}`",
            *(f"{value:.2f}" for value in cost.relative),
            f"{cost.ms[0] / cost.target_ms:.2f}",
        )
        for method, cost in costs.items()
    ]
    head = ("method", *(f"k = {length}" for length in lengths), "over the target")
    return markdown_table(head, lines, texts=1)

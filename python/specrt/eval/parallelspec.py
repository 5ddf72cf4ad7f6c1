"""Benchmark of drafters that draft in one step (ParallelSpec) beside their bases, over six tasks.

Temperatures are measured one after the other in one process, methods prompt by prompt (`bench`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from specrt.bundle import Bundle
from specrt.eval.bench import BASELINE, BenchOptions, BenchRun, run_bench
from specrt.eval.draft_cost import DraftCost, draft_cost
from specrt.eval.parallel_fits import fit_of, fits_markdown
from specrt.eval.prompts import Prompt
from specrt.eval.report import BenchRow, bench_rows, json_rows
from specrt.eval.study_tables import acceptance_table, differing_rows, speed_table
from specrt.eval.table import markdown_table
from specrt.eval.variants import parse_variant
from specrt.llm import LLM


@dataclass(frozen=True)
class ParallelSpecRun:
    """Runs by temperature, what the drafts of each method cost, and the size of the target."""

    runs: Mapping[float, BenchRun]
    costs: Mapping[str, DraftCost]
    target_bytes: int

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
    for method in dict.fromkeys(parse_variant(name)[0] for name in options.methods):
        cost = draft_cost(LLM(bundle, method, threads=options.threads))
        if cost is not None:
            costs[method] = cost
    runs = {
        temperature: run_bench(
            bundle, prompts, replace(options, temperature=temperature), progress=progress
        )
        for temperature in temperatures
    }
    return ParallelSpecRun(runs, costs, bundle.target_engine.stat().st_size)


def parallelspec_json(
    result: ParallelSpecRun, version: str, commit: str | None
) -> list[dict[str, Any]]:
    """Rows of `bench` with the draft cost of their method and, of a fit, its speed over a base."""
    found = []
    for temperature, rows in result.rows.items():
        as_json = json_rows(result.runs[temperature], version, commit)
        for row, fields in zip(rows, as_json, strict=True):
            cost = result.costs.get(parse_variant(row.method)[0])
            fit = fit_of(row, rows)
            extra = {
                "draft_cost": None if cost is None else asdict(cost),
                "base": None if fit is None else fit.base.method,
                "speedup_vs_base": None if fit is None else fit.speedup,
            }
            found.append(fields | extra)
    return found


def parallelspec_markdown(result: ParallelSpecRun, place: str) -> str:
    """The report: speed by task, acceptance by position, fits over their bases, cost of a draft."""
    parts = ["# Drafters, token by token and in one step\n", f"{place}.\n"]
    for temperature, rows in result.rows.items():
        parts += [f"## Temperature {temperature:g}\n", *speed_table(rows), ""]
        parts += [
            "Share of rounds whose draft held up to each position, all prompts:\n",
            *acceptance_table(rows),
            "",
        ]
    parts += fits_markdown(result.rows, result.costs, result.target_bytes)
    parts += [
        "## Cost of a draft\n",
        "Time to draft k tokens over the time to draft one, and one draft token over a step of the",
        "target:\n",
        *_cost_table(result.costs),
        "",
    ]
    return "\n".join(parts)


def _cost_table(costs: Mapping[str, DraftCost]) -> list[str]:
    lengths = max((cost.lengths for cost in costs.values()), key=len, default=())
    lines = [
        (
            f"`{method}`",
            *(f"{value:.2f}" for value in cost.relative),
            *["-"] * (len(lengths) - len(cost.lengths)),
            f"{cost.ms[0] / cost.target_ms:.2f}",
        )
        for method, cost in costs.items()
    ]
    head = ("method", *(f"k = {length}" for length in lengths), "over the target")
    return markdown_table(head, lines, texts=1)

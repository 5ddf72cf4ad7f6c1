"""Drafters that draft all tokens in one step, each beside the drafter that it stands in for.

The fits are those of ParallelSpec (Xiao et al. 2024, arXiv 2410.05589): alone, for Medusa, for
EAGLE.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from specrt.bundle import Bundle
from specrt.eval.bench import BASELINE
from specrt.eval.draft_cost import DraftCost
from specrt.eval.report import ALL, BenchRow
from specrt.eval.table import markdown_table, speedup_text
from specrt.eval.variants import parse_variant
from specrt.methods import MethodChoice, drafter_of

BASES = {"parallel": "speculative", "parallel-medusa": "medusa", "parallel-eagle": "eagle"}
_CHAINS = "@nodes=0"
_LENGTH = 4  # of the draft whose time is shown

# Figures of the paper for fits over their bases; it has none for one that drafts alone.
_PUBLISHED = (
    ("any over its base", "up to 62 % faster", "-", "the paper's abstract"),
    (
        "`parallel-medusa` over `medusa`",
        "up to 62.7 % faster",
        "3.31 over 2.39",
        "as cited by others",
    ),
    ("`parallel-eagle` over `eagle`", "9 to 17 % faster", "-", "as cited by others"),
)


def methods_of(bundle: Bundle) -> tuple[str, ...]:
    """Autoregressive decoding and the drafters that `bundle` has, a fit behind its base."""
    names = [name for fit, base in BASES.items() for name in (base, fit)]
    return (BASELINE, *(name for name in names if drafter_of(name) in bundle.drafters))


def with_chains(methods: Sequence[str]) -> tuple[str, ...]:
    """The methods; those that draft trees once more, with chains."""
    trees = [
        name
        for name in methods
        if MethodChoice(name).prefers_trees and f"{name}{_CHAINS}" not in methods
    ]
    return (*methods, *(f"{name}{_CHAINS}" for name in trees))


@dataclass(frozen=True)
class Fit:
    """A fit and its base on the same prompts."""

    row: BenchRow
    base: BenchRow

    @property
    def speedup(self) -> float | None:
        """Tokens per second over the base's."""
        other = self.base.tokens_per_second
        return self.row.tokens_per_second / other if other > 0 else None

    @property
    def trees(self) -> str:
        """Which of the two draft trees."""
        return {
            (True, True): "both",
            (True, False): "the fit",
            (False, True): "the base",
            (False, False): "none",
        }[self.row.tree_nodes > 0, self.base.tree_nodes > 0]


def fit_of(row: BenchRow, rows: Sequence[BenchRow]) -> Fit | None:
    """The row and its base's with the same settings, among `rows`; None if there is none.

    Chains are compared with chains: a base that drafts them anyway needs no such setting.
    """
    method, at, settings = row.method.partition("@")
    base = BASES.get(method)
    if base is None:
        return None
    group = (row.category, row.prompt_file)
    same = {other.method: other for other in rows if (other.category, other.prompt_file) == group}
    found = same.get(f"{base}{at}{settings}")
    if found is None and at + settings == _CHAINS and not MethodChoice(base).prefers_trees:
        found = same.get(base)
    return None if found is None else Fit(row, found)


def pooled_fits(rows: Sequence[BenchRow]) -> Iterator[Fit]:
    """Every fit over all prompts."""
    for row in rows:
        fit = fit_of(row, rows) if row.category == ALL else None
        if fit is not None:
            yield fit


def fits_markdown(
    rows: Mapping[float, Sequence[BenchRow]], costs: Mapping[str, DraftCost], target_bytes: int
) -> list[str]:
    """Each fit over its base at every temperature, and what is published; nothing without fits."""
    lines = [
        _line(temperature, fit, costs)
        for temperature, each in rows.items()
        for fit in pooled_fits(each)
    ]
    if not lines:
        return []
    head = (
        *("T", "fit", "base", "trees", "tokens/s over the base's", "mean acceptance length"),
        *("the base's", f"draft of {_LENGTH} over a target step", "the base's"),
    )
    return [
        "## Parallel fits over their bases\n",
        "All prompts. A mean acceptance length counts the bonus token; trees: which of the two may",
        "draft them, where that should pay.\n",
        *markdown_table(head, lines, texts=4),
        "",
        "Published for the fits of ParallelSpec (arXiv 2410.05589). Model sizes differ by far: its",
        "targets have 7 and 13 billion parameters (Llama-2-13B becomes 2.84x as fast, abstract),",
        f"and the engine of this target has {_size(target_bytes)}.\n",
        *markdown_table(("", "speed", "mean acceptance length", "source"), _PUBLISHED, texts=4),
        "",
    ]


def _line(temperature: float, fit: Fit, costs: Mapping[str, DraftCost]) -> tuple[str, ...]:
    return (
        f"{temperature:g}",
        f"`{fit.row.method}`",
        f"`{fit.base.method}`",
        fit.trees,
        speedup_text(fit.speedup),
        f"{fit.row.mean_acceptance_length:.2f}",
        f"{fit.base.mean_acceptance_length:.2f}",
        _cost_text(costs, fit.row.method),
        _cost_text(costs, fit.base.method),
    )


def _cost_text(costs: Mapping[str, DraftCost], method: str) -> str:
    cost = costs.get(parse_variant(method)[0])
    share = None if cost is None else cost.over_target(_LENGTH)
    return "-" if share is None else f"{share:.2f}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"

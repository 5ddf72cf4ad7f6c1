"""What the numbers of a run have to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpu.results import Results


@dataclass(frozen=True)
class Goal:
    """A value derived from readings, and its limit.

    Attributes:
        text: what it is.
        value: None if it was not measured.
        limit: the worst value that is good enough.
        is_upper: whether smaller is better.
    """

    text: str
    value: Callable[[Results], float | None]
    limit: float
    is_upper: bool

    def is_met(self, results: Results) -> bool | None:
        """None if it was not measured."""
        value = self.value(results)
        if value is None:
            return None
        return value <= self.limit if self.is_upper else value >= self.limit


def _reading(name: str) -> Callable[[Results], float | None]:
    return lambda results: results.value(name)


def _share(name: str) -> Callable[[Results], float | None]:
    def percent(results: Results) -> float | None:
        share = results.share_of_copy(name)
        return None if share is None else 100 * share

    return percent


def _tokens_per_second(name: str) -> Callable[[Results], float | None]:
    def rate(results: Results) -> float | None:
        value = results.value(name)
        return 1e3 / value if value else None

    return rate


def _ratio(name: str, base: str) -> Callable[[Results], float | None]:
    def ratio(results: Results) -> float | None:
        value, under = results.value(name), results.value(base)
        return value / under if value is not None and under else None

    return ratio


GOALS = (
    Goal("8B, tokens/s of one row, 1k cached", _tokens_per_second("8b.step.r1"), 190, False),
    Goal("8B, % of copy bandwidth, one row", _share("8b.step.r1"), 65, False),
    Goal("8B, 8 rows over 1", _ratio("8b.step.r8", "8b.step.r1"), 1.03, True),
    Goal("8B, 16 rows over 1", _ratio("8b.step.r16", "8b.step.r1"), 1.05, True),
    Goal("8B, 32 rows over 1", _ratio("8b.step.r32", "8b.step.r1"), 1.15, True),
    Goal("8B, 64 rows over 1", _ratio("8b.step.r64", "8b.step.r1"), 1.45, True),
    Goal("8B, ms to the first of 1024 tokens", _reading("8b.prefill.t1024"), 50, True),
    Goal("1B, % of copy bandwidth, one row", _share("1b.step.r1"), 45, False),
    Goal("CPU against CUDA, nats", _reading("cpu_cuda.logprob_error"), 0.1, True),
    Goal("us from graph to graph", _reading("gap.graph_to_graph"), 10, True),
)

"""What a draft costs by its length: the steps that make it, timed."""

from collections.abc import Sequence
from dataclasses import dataclass

from specrt._core import EngineRole
from specrt.llm import LLM
from specrt.methods import AT_ONCE

LENGTHS = (1, 2, 4, 8, 16)
_CACHED = 64  # positions behind a step
_PASSES = 5  # over all lengths, so that a disturbance of the machine meets all of them
_REPEATS = 5  # steps timed in a row; the first warms the caches and is dropped


@dataclass(frozen=True)
class DraftCost:
    """Least times of a drafter, in milliseconds.

    Attributes:
        lengths: tokens drafted in a round, ascending, from 1; no more than there are heads.
        ms: what a draft of each length takes.
        target_ms: a step of the target over one row.
    """

    lengths: tuple[int, ...]
    ms: tuple[float, ...]
    target_ms: float

    @property
    def relative(self) -> tuple[float, ...]:
        """Cost of each length over the cost of one drafted token."""
        return tuple(ms / self.ms[0] for ms in self.ms)

    def over_target(self, length: int) -> float | None:
        """A draft of `length` tokens over a step of the target; None: not that long."""
        times = dict(zip(self.lengths, self.ms, strict=True))
        return times[length] / self.target_ms if length in times else None


def draft_cost(llm: LLM, lengths: Sequence[int] = LENGTHS) -> DraftCost | None:
    """Times drafts of `lengths` tokens behind one committed token; None without a draft engine.

    A drafter that fills masks takes one step over as many rows, a draft model as many steps.
    """
    if llm.drafter is None:
        return None
    heads = llm.bundle.heads.get(llm.drafter)
    lengths = [length for length in lengths if heads is None or length <= heads]
    at_once = llm.drafter in AT_ONCE
    rows = [length if at_once else 1 for length in lengths]
    cached = max(0, min(_CACHED, llm.core.context - max(rows)))
    least = dict.fromkeys([(EngineRole.drafter, n) for n in rows], float("inf"))
    least[EngineRole.target, 1] = float("inf")
    for _ in range(_PASSES):
        for role, count in least:
            times = llm.core.time_steps(role, count, cached, _REPEATS)
            least[role, count] = min(least[role, count], *times[1:])
    steps = [least[EngineRole.drafter, n] for n in rows]
    ms = [one if at_once else one * n for one, n in zip(steps, lengths, strict=True)]
    return DraftCost(tuple(lengths), tuple(ms), least[EngineRole.target, 1])

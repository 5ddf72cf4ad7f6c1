"""How many tokens to draft: expected tokens of a round against what the round costs.

A round drafts k tokens one by one and verifies them in one target step of k + 1 rows, so it takes
t_target(k + 1) + k * t_draft(1), the t of the step curves of this machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specrt._core import Error

MAX_DRAFT_LENGTH = 16  # beyond it a chain gains nothing at any acceptance that drafts reach
_MOST_ROWS = 64  # of a step


def expected_tokens(acceptance: float, draft_length: int) -> float:
    """Tokens that a round commits on average, the bonus included.

    (1 - a^(k+1)) / (1 - a), Leviathan et al. 2023 (arXiv 2211.17192), eq. 1.

    Args:
        acceptance: a, probability in [0, 1] that a drafted token is accepted, each independently.
        draft_length: k >= 0.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0.0 <= acceptance <= 1.0:
        raise ValueError(f"acceptance must be in [0, 1], not {acceptance}")
    if draft_length < 0:
        raise ValueError(f"draft_length must be >= 0, not {draft_length}")
    if acceptance == 1.0:
        return float(draft_length + 1)
    return float((1.0 - acceptance ** (draft_length + 1)) / (1.0 - acceptance))


def expected_tokens_by_position(accepted_shares: Sequence[float]) -> float:
    """Tokens of a round when position i of the draft is reached and accepted in this share of them.

    The shares are unconditional (accepted_at_position / rounds), so their sum is the expected
    number of accepted tokens, to which the bonus or the replacement adds one.
    """
    return 1.0 + sum(accepted_shares)


@dataclass(frozen=True)
class StepCurve:
    """Milliseconds of a step by its rows, measured at some row counts.

    Attributes:
        points: (rows, ms), rows ascending, at least one.
    """

    points: tuple[tuple[int, float], ...]

    def at(self, rows: int) -> float:
        """Milliseconds at `rows`: linear between measured counts, level outside of them."""
        below, below_ms = self.points[0]
        if rows <= below:
            return below_ms
        for above, above_ms in self.points[1:]:
            if rows <= above:
                return below_ms + (above_ms - below_ms) * (rows - below) / (above - below)
            below, below_ms = above, above_ms
        return below_ms


@dataclass(frozen=True)
class StepCosts:
    """Step curves of a target and its draft model."""

    target: StepCurve
    draft: StepCurve

    def round_ms(self, draft_length: int) -> float:
        """Milliseconds of a round that drafts `draft_length` tokens."""
        drafting = draft_length * self.draft.at(1)
        return self.target.at(draft_length + 1) + drafting

    def speedup(self, tokens: float, draft_length: int) -> float:
        """Speed-up over autoregressive decoding when a round commits `tokens` on average."""
        return tokens * self.target.at(1) / self.round_ms(draft_length)


@dataclass(frozen=True)
class Prediction:
    """The best draft length under some acceptance. Length 0 means: do not draft."""

    draft_length: int
    tokens_per_round: float
    speedup: float


def best_draft_length(
    costs: StepCosts, acceptance: float, longest: int = MAX_DRAFT_LENGTH
) -> Prediction:
    """The draft length in [0, longest] with the largest predicted speed-up; ties: the shorter."""
    best = Prediction(0, 1.0, 1.0)
    for length in range(1, longest + 1):
        tokens = expected_tokens(acceptance, length)
        speedup = costs.speedup(tokens, length)
        if speedup > best.speedup:
            best = Prediction(length, tokens, speedup)
    return best


def best_measured_length(costs: StepCosts, accepted_shares: Sequence[float]) -> Prediction:
    """As best_draft_length, from measured shares by position; no longer than they are."""
    best = Prediction(0, 1.0, 1.0)
    for length in range(1, len(accepted_shares) + 1):
        tokens = expected_tokens_by_position(accepted_shares[:length])
        speedup = costs.speedup(tokens, length)
        if speedup > best.speedup:
            best = Prediction(length, tokens, speedup)
    return best


def step_curve(step_ms: object) -> StepCurve:
    """The curve of a manifest's {"rows": milliseconds}. Raises Error if it is damaged."""
    try:
        if not isinstance(step_ms, Mapping) or not step_ms:
            raise ValueError("no step times")
        points = sorted((int(rows), float(ms)) for rows, ms in step_ms.items())
        if not 1 <= points[0][0] <= points[-1][0] <= _MOST_ROWS:
            raise ValueError(f"rows must be in [1, {_MOST_ROWS}]")
        if not all(0.0 < ms < float("inf") for _, ms in points):
            raise ValueError("milliseconds must be positive")
    except (TypeError, ValueError, OverflowError) as error:
        raise Error(
            f"the step times in the manifest are damaged ({error}); "
            "measure them again with: specrt tune BUNDLE"
        ) from None
    return StepCurve(tuple(points))


def step_curves(curves: Mapping[str, Any], *, overlapped: bool = False) -> dict[str, StepCurve]:
    """Curves by role, "target" and perhaps "draft", of a manifest. Raises Error if damaged.

    Args:
        curves: what the manifest keeps.
        overlapped: as steps are when the models share the cores; without such a measurement, as
            they are otherwise.
    """
    step_ms = curves.get("overlapped_step_ms" if overlapped else "step_ms") or curves.get("step_ms")
    roles: Mapping[str, Any] = step_ms if isinstance(step_ms, Mapping) else {}
    found = {"target": step_curve(roles.get("target"))}
    return found | {"draft": step_curve(roles["draft"])} if "draft" in roles else found


def step_costs(curves: Mapping[str, Any]) -> StepCosts | None:
    """The costs in a manifest's `curves`; None without a draft. Raises Error if damaged."""
    found = step_curves(curves)
    return StepCosts(found["target"], found["draft"]) if "draft" in found else None

"""What decoding loops should reach: expected tokens of a round over what the round costs.

All costs are the step times t of this machine by rows (`specrt tune`), all expectations those of a
long completion. Loops by their names in specrt:

autoregressive  1 token in t_target(1).
speculative     Drafts k tokens one by one, then verifies them in one target step: a round takes
                t_target(k + 1) + k * t_draft(1) (Leviathan et al. 2023, arXiv 2211.17192,
                theorem 3.8); tokens are `speculative_chain`'s. After a draft that held in full the
                first draft step feeds two rows: the last drafted token, which was never fed, and
                the bonus.
pearl           Drafts gamma tokens while the target verifies: a round takes
                max(t_target(rows), gamma * t_draft(1)) on two devices (Liu et al. 2024, PEARL,
                arXiv 2408.11850), more on one (`Overlap`); rows and tokens are `pearl_chain`'s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specrt.eval.acceptance import Acceptance
from specrt.eval.round_chain import RoundChain, pearl_chain, speculative_chain
from specrt.eval.step_costs import StepCosts, StepCurve

MAX_DRAFT_LENGTH = 16  # beyond it a chain gains nothing at any acceptance that drafts reach
MAX_GAMMA = 63  # tokens that a round of any method drafts at most


@dataclass(frozen=True)
class Overlap:
    """What a round costs whose draft steps run beside the target's step.

    Both wait for the longer one, and for what they share, the memory bus: what they read adds up.

        round >= max((B_target + g * B_draft) / bandwidth, t_target, g * t_draft)

    where B are the bytes of a step. With one step's share of the bus in milliseconds, b = B /
    bandwidth, that needs no bytes: max(min(b_target, t_target) + g * min(b_draft, t_draft), ...).

    Attributes:
        target_bus_ms: b of the target; infinite if a step keeps the bus busy for all of its time.
        draft_bus_ms: b of the draft model.
    """

    target_bus_ms: float
    draft_bus_ms: float

    def round_ms(self, target_ms: float, draft_ms: Sequence[float]) -> float:
        """Milliseconds of a round with these steps; a bound from below."""
        bus = min(target_ms, self.target_bus_ms)
        bus += sum(min(ms, self.draft_bus_ms) for ms in draft_ms)
        return max(bus, target_ms, sum(draft_ms))


SEPARATE_DEVICES = Overlap(0.0, 0.0)
# Bytes unknown: overlapping gains nothing, steps take as long as one after another.
SHARED_BUS = Overlap(math.inf, math.inf)


def shared_bus(target_bytes: int, draft_bytes: int, bandwidth: float) -> Overlap:
    """One bus, on which a step of each model reads so many bytes.

    Args:
        target_bytes: read by a step of the target.
        draft_bytes: read by a step of the draft model.
        bandwidth: bytes per second that reading can reach, not the nominal ones.

    Raises:
        ValueError: the bandwidth is not positive.
    """
    if not bandwidth > 0.0:
        raise ValueError(f"bandwidth must be positive, not {bandwidth}")
    return Overlap(1000.0 * target_bytes / bandwidth, 1000.0 * draft_bytes / bandwidth)


@dataclass(frozen=True)
class Prediction:
    """What a loop should reach. Draft length 0 means: do not draft.

    Attributes:
        draft_length: tokens drafted in a round; gamma under PEARL.
        tokens_per_round: committed on average, replacement or bonus included: the mean acceptance
            length.
        round_ms: of a round on average.
        speedup: over autoregressive decoding.
    """

    draft_length: int
    tokens_per_round: float
    round_ms: float
    speedup: float

    @property
    def tokens_per_second(self) -> float:
        """Decoding rate."""
        return 1000.0 * self.tokens_per_round / self.round_ms


def autoregressive(target: StepCurve) -> Prediction:
    """One token in a step of one row."""
    return Prediction(0, 1.0, target.at(1), 1.0)


def speculative(costs: StepCosts, acceptance: Acceptance, draft_length: int) -> Prediction:
    """Lockstep rounds of `draft_length` tokens, at least 0; 0 is autoregressive.

    t = t_target(k + 1) + (k - 1) t_draft(1) + (1 - h) t_draft(1) + h t_draft(2), where h is the
    probability that a draft holds in full.
    """
    chain = speculative_chain(acceptance, draft_length)
    held = [acceptance.all_accepted(first, draft_length) for first in chain.first]
    return _lockstep(costs, draft_length, chain.tokens_per_round(), _mean(chain, held))


def speculative_as_measured(
    costs: StepCosts, accepted_shares: Sequence[float], draft_length: int
) -> Prediction:
    """The same from measured rounds: the share whose draft held at least up to each position.

    The shares (accepted_at_position / rounds) are unconditional, so their sum is the mean of
    accepted tokens, to which the bonus or the replacement adds one.

    Args:
        costs: step times.
        accepted_shares: by position of the draft.
        draft_length: no more than there are positions.
    """
    shares = accepted_shares[:draft_length]
    return _lockstep(costs, draft_length, 1.0 + sum(shares), shares[-1] if shares else 0.0)


def pearl(costs: StepCosts, acceptance: Acceptance, gamma: int, overlap: Overlap) -> Prediction:
    """PEARL's rounds of `gamma` drafted tokens, at least 1.

    Means over the chain's stationary distribution: sum pi_s tokens_s tokens in
    sum pi_s round(t_target(rows_s), gamma t_draft(1)).
    """
    chain = pearl_chain(acceptance, gamma)
    drafting = [costs.draft.at(1)] * gamma
    rounds = [overlap.round_ms(costs.target.at(rows), drafting) for rows in chain.rows]
    return _prediction(costs, gamma, chain.tokens_per_round(), _mean(chain, rounds))


def default_gamma(costs: StepCosts) -> int:
    """t_target / t_draft, rounded: PEARL's theorem 1, the draft is done when the target is."""
    ratio = costs.target.at(1) / costs.draft.at(1)
    return max(1, round(min(ratio, MAX_GAMMA)))


def best_speculative(
    costs: StepCosts, acceptance: Acceptance, longest: int = MAX_DRAFT_LENGTH
) -> Prediction:
    """The fastest of all lengths in [0, longest]; of equal ones the shortest."""
    predictions = [speculative(costs, acceptance, k) for k in range(longest + 1)]
    return max(predictions, key=lambda p: p.tokens_per_second)


def best_as_measured(costs: StepCosts, accepted_shares: Sequence[float]) -> Prediction:
    """As `best_speculative`, from measured shares by position; no longer than they are."""
    lengths = range(len(accepted_shares) + 1)
    predictions = [speculative_as_measured(costs, accepted_shares, k) for k in lengths]
    return max(predictions, key=lambda p: p.tokens_per_second)


def best_pearl(
    costs: StepCosts, acceptance: Acceptance, overlap: Overlap, longest: int = MAX_GAMMA
) -> Prediction:
    """The fastest of all gammas in [1, longest]; of equal ones the shortest."""
    predictions = [pearl(costs, acceptance, g, overlap) for g in range(1, longest + 1)]
    return max(predictions, key=lambda p: p.tokens_per_second)


def _mean(chain: RoundChain, by_state: Sequence[float]) -> float:
    """Over the rounds of a chain in the long run."""
    return float(chain.stationary() @ np.array(by_state))


def _lockstep(costs: StepCosts, draft_length: int, tokens: float, held: float) -> Prediction:
    """Rounds that commit `tokens`, and whose draft holds in full in a share `held` of them."""
    if draft_length == 0:
        return autoregressive(costs.target)
    drafting = (draft_length - held) * costs.draft.at(1) + held * costs.draft.at(2)
    return _prediction(costs, draft_length, tokens, costs.target.at(draft_length + 1) + drafting)


def _prediction(
    costs: StepCosts, draft_length: int, tokens_per_round: float, round_ms: float
) -> Prediction:
    speedup = tokens_per_round * costs.target.at(1) / round_ms
    return Prediction(draft_length, tokens_per_round, round_ms, speedup)

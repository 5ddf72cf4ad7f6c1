"""Decoding loops without models: their rounds, token by token, on given step times.

A sequence is what the runtime keeps of it: committed length C, tail length m, tokens in the
drafter's KV cache D, limit. A text is a row of matches: for every token after the first, whether
the draft model, given all tokens before it, drafts that token. The cost model is checked against
it, and it tells what no formula does: ends of sequences, the text of a measurement, how much of the
drafting is hidden.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from specrt.eval.cost_model import Overlap
from specrt.eval.step_costs import StepCosts

_FIRST = 2  # committed before the first round: a prompt of one token, and the token that it gives


@dataclass(frozen=True)
class Simulation:
    """What the rounds of a sequence took.

    Attributes:
        tokens: committed after the prompt's own step.
        rounds: that committed them.
        refusals: rounds that a refused draft ended.
        ms: of all rounds.
        draft_ms: of all draft steps.
        hidden_ms: of that, what lies under a target step: target + drafting - round.
    """

    tokens: int
    rounds: int
    refusals: int
    ms: float
    draft_ms: float
    hidden_ms: float

    @property
    def tokens_per_second(self) -> float:
        """Decoding rate."""
        return 1000.0 * self.tokens / self.ms

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens committed in a round, replacement or bonus included."""
        return self.tokens / self.rounds

    @property
    def tokens_between_refusals(self) -> float:
        """Committed from one refusal to the next, replacement included: the M that PEARL reports.

        1 / (1 - a) under PEARL with i.i.d. acceptance; theorem 2 of the paper counts one more. Not
        comparable with `mean_acceptance_length`. Infinite without a refusal.
        """
        return self.tokens / self.refusals if self.refusals else float("inf")

    @property
    def hidden_draft_share(self) -> float:
        """Share of the drafting time that lies under a target step; 0 if nothing was drafted."""
        return self.hidden_ms / self.draft_ms if self.draft_ms > 0.0 else 0.0


@dataclass(frozen=True)
class _Sequence:
    """State between rounds."""

    committed: int
    tail: int
    draft_kv: int
    limit: int

    @property
    def draft_begin(self) -> int:
        """E, the first position that is neither committed nor in the tail."""
        return self.committed - 1 + self.tail


@dataclass(frozen=True)
class _Draft:
    """What a round drafts: rows of every draft step, and the drafter's KV length behind them."""

    step_rows: tuple[int, ...]
    end: int

    @property
    def tokens(self) -> int:
        """Every step drafts one."""
        return len(self.step_rows)


def _draft(sequence: _Sequence, length: int, room: int) -> _Draft:
    """Drafts up to `length` tokens and leaves `room` below the limit.

    The first step feeds what the drafter lacks: one token, or two after a lockstep draft that held
    in full, whose last token was never fed. The others feed the token before.
    """
    begin = sequence.draft_begin
    tokens = max(0, min(length, sequence.limit - begin - room))
    if tokens == 0:
        return _Draft((), sequence.draft_kv)
    return _Draft((begin - sequence.draft_kv, *[1] * (tokens - 1)), begin + tokens - 1)


@dataclass(frozen=True)
class _Verdict:
    """The sequence after a round, and whether a refusal ended it."""

    sequence: _Sequence
    refused: bool


def _judge(sequence: _Sequence, pending: _Draft, matches: Sequence[bool]) -> _Verdict:
    """Judges the tail, then the first of the `pending` draft, and commits.

    Row i of the tail commits the target's token and judges the drafted one behind it; the last row
    judges the first pending token. If all hold, the pending draft survives as the next tail;
    otherwise the target's last token is the next tail, alone.
    """
    judged = sequence.tail - 1 + (pending.tokens > 0)
    count, refused, survives = 0, False, False
    while True:
        count += 1
        if sequence.committed + count == sequence.limit or count > judged:
            break
        if not matches[sequence.committed + count - 1 - _FIRST]:
            refused = True
            break
        if count == sequence.tail:
            survives = True
            break
    committed = sequence.committed + count
    tail, known = 1, committed - 1
    if survives:
        tail, known = pending.tokens, known + pending.tokens
    draft_kv = min(pending.end, known)
    return _Verdict(_Sequence(committed, tail, draft_kv, sequence.limit), refused)


@dataclass(frozen=True)
class _Round:
    """Row counts of a round's steps, and its verdict."""

    target_rows: int
    draft: _Draft
    verdict: _Verdict


def _lockstep_round(sequence: _Sequence, length: int, matches: Sequence[bool]) -> _Round:
    """Drafts, appends the draft to the tail, then verifies; the last row gives a bonus."""
    draft = _draft(sequence, length, room=1)
    appended = replace(sequence, tail=sequence.tail + draft.tokens)
    verdict = _judge(appended, replace(draft, step_rows=()), matches)
    return _Round(appended.tail, draft, verdict)


def _pearl_round(sequence: _Sequence, gamma: int, matches: Sequence[bool]) -> _Round:
    """Verifies the tail while the tokens behind it are drafted.

    Pre-verify is a tail of one token. Where nothing can be drafted any more, the last row gives a
    bonus: an autoregressive round.
    """
    draft = _draft(sequence, gamma, room=0)
    return _Round(sequence.tail, draft, _judge(sequence, draft, matches))


def simulate_speculative(
    costs: StepCosts, matches: Sequence[bool], draft_length: int
) -> Simulation:
    """Lockstep rounds of one sequence: `draft_length` 0 is autoregressive.

    Args:
        costs: step times.
        matches: for every token after the first, which the prompt's own step gives, whether the
            draft model drafts it.
        draft_length: tokens drafted in a round at most.

    Raises:
        ValueError: there are no tokens, or the length is negative.
    """
    if draft_length < 0:
        raise ValueError(f"draft_length must be >= 0, not {draft_length}")

    def play(sequence: _Sequence) -> _Round:
        return _lockstep_round(sequence, draft_length, matches)

    return _run(play, costs, len(matches), None)


def simulate_pearl(
    costs: StepCosts, matches: Sequence[bool], gamma: int, overlap: Overlap
) -> Simulation:
    """PEARL rounds of one sequence, which draft `gamma` tokens at most; else as above."""
    if gamma < 1:
        raise ValueError(f"gamma must be >= 1, not {gamma}")

    def play(sequence: _Sequence) -> _Round:
        return _pearl_round(sequence, gamma, matches)

    return _run(play, costs, len(matches), overlap)


def _run(
    play: Callable[[_Sequence], _Round], costs: StepCosts, tokens: int, overlap: Overlap | None
) -> Simulation:
    """Rounds until `tokens` are committed. Without `overlap` steps take turns."""
    if tokens < 1:
        raise ValueError("a simulation needs at least one token after the first")
    sequence = _Sequence(committed=_FIRST, tail=1, draft_kv=_FIRST - 1, limit=_FIRST + tokens)
    target_at, draft_at = cache(costs.target.at), cache(costs.draft.at)
    rounds = refusals = 0
    ms = draft_ms = hidden_ms = 0.0
    while sequence.committed < sequence.limit:
        each = play(sequence)
        sequence = each.verdict.sequence
        target_ms = target_at(each.target_rows)
        steps = [draft_at(rows) for rows in each.draft.step_rows]
        drafting = sum(steps)
        turns_ms = target_ms + drafting
        round_ms = turns_ms if overlap is None else overlap.round_ms(target_ms, steps)
        rounds += 1
        refusals += each.verdict.refused
        ms += round_ms
        draft_ms += drafting
        hidden_ms += turns_ms - round_ms
    return Simulation(tokens, rounds, refusals, ms, draft_ms, hidden_ms)

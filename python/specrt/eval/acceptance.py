"""How often the draft model is right, by how often it has just been right."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specrt._core import Error

_POSITIONS = 8  # told apart; longer runs are too rare to
_ASSUMED_TRIALS = 2  # what the position before counts for, where few tokens were seen


@dataclass(frozen=True)
class Acceptance:
    """Probability that the draft model's token is the target's, given all tokens before it.

    It belongs to text and models, not to a decoding loop: loops differ in which of these tokens
    they judge. Right tokens come in runs, as easy passages do, so it depends on the run so far.

    Attributes:
        by_position: after 0, 1, ... right tokens since the last wrong one; the last value holds for
            all longer runs. One value is the i.i.d. acceptance of the papers.
    """

    by_position: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.by_position:
            raise ValueError("acceptance needs at least one position")
        for value in self.by_position:
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"acceptance must be in [0, 1], not {value}")

    @property
    def last(self) -> int:
        """The position from which on acceptance is level."""
        return len(self.by_position) - 1

    def at(self, position: int) -> float:
        """After `position` right tokens."""
        return self.by_position[min(position, self.last)]

    def all_accepted(self, first: int, count: int) -> float:
        """Probability that `count` tokens from position `first` on are right."""
        share = 1.0
        for position in range(first, first + count):
            share *= self.at(position)
        return share

    def committed(self, first: int, rows: int) -> float:
        """Tokens that a round with so many target rows commits on average.

        Every row commits the target's token, and the next row counts if the draft has the same:
        1 + a_0 + a_0 a_1 + ..., as many terms as rows. With one acceptance a and k + 1 rows it is
        (1 - a^(k+1)) / (1 - a), Leviathan et al. 2023 (arXiv 2211.17192), eq. 1.

        Args:
            first: position of the first judged token.
            rows: of the target's step, at least 1.
        """
        tokens, held = 0.0, 1.0
        for position in range(first, first + rows):
            tokens += held
            held *= self.at(position)
        return tokens


def iid(acceptance: float) -> Acceptance:
    """Every token is right with the same probability, independently."""
    return Acceptance((acceptance,))


def random_matches(acceptance: Acceptance, count: int, seed: int) -> list[bool]:
    """Whether the draft model is right, for `count` tokens in a row behind a wrong one."""
    generator = random.Random(seed)
    matches: list[bool] = []
    run = 0
    for _ in range(count):
        match = generator.random() < acceptance.at(run)
        matches.append(match)
        run = run + 1 if match else 0
    return matches


@dataclass(frozen=True)
class AcceptanceCounts:
    """Tokens for which it was seen whether the draft model is right.

    Attributes:
        reached_at_position: tokens after so many right ones (from 0); the last counts longer runs
            too.
        accepted_at_position: of those, the right ones.
    """

    reached_at_position: tuple[int, ...]
    accepted_at_position: tuple[int, ...]

    def by_position(self) -> Acceptance:
        """Accepted / reached; each position starts from what the one before it shows.

        Long runs are rare: without that start three tokens of three would make a draft that never
        fails.
        """
        shares: list[float] = []
        pairs = zip(self.reached_at_position, self.accepted_at_position, strict=True)
        for reached, accepted in pairs:
            if not shares:
                shares.append(accepted / reached)
                continue
            assumed = _ASSUMED_TRIALS * shares[-1]
            shares.append((accepted + assumed) / (reached + _ASSUMED_TRIALS))
        return Acceptance(tuple(shares))

    @property
    def tokens(self) -> int:
        """Seen in all."""
        return sum(self.reached_at_position)

    @property
    def rate(self) -> float:
        """Share of right tokens."""
        return sum(self.accepted_at_position) / self.tokens


def counts_of(texts: Sequence[Sequence[bool]]) -> AcceptanceCounts | None:
    """Counts the matches of some texts; None without any."""
    reached, accepted = [0] * _POSITIONS, [0] * _POSITIONS
    for matches in texts:
        run = 0
        for match in matches:
            position = min(run, _POSITIONS - 1)
            reached[position] += 1
            accepted[position] += match
            run = run + 1 if match else 0
    return AcceptanceCounts(tuple(reached), tuple(accepted)) if reached[0] else None


def stored_counts(curves: Mapping[str, Any]) -> AcceptanceCounts | None:
    """The counts in a manifest's `curves`; None if it has none. Raises Error if damaged."""
    stored = curves.get("acceptance")
    if not stored:
        return None
    try:
        if not isinstance(stored, Mapping):
            raise ValueError("not an object")
        reached, accepted = (
            _counts(stored.get(name)) for name in ("reached_at_position", "accepted_at_position")
        )
        if len(reached) != len(accepted) or reached[0] == 0:
            raise ValueError("the positions do not match")
        if any(right > seen for seen, right in zip(reached, accepted, strict=True)):
            raise ValueError("more tokens accepted than seen")
    except ValueError as error:
        raise Error(
            f"the acceptance in the manifest is damaged ({error}); "
            "measure it again with: specrt tune BUNDLE"
        ) from None
    return AcceptanceCounts(reached, accepted)


def _counts(stored: object) -> tuple[int, ...]:
    if not isinstance(stored, list) or not 0 < len(stored) <= _POSITIONS:
        raise ValueError(f"counts must be a list of 1 to {_POSITIONS}")
    for count in stored:
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError("counts must be integers from 0 on")
    return tuple(stored)

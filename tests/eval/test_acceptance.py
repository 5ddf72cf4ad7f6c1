"""Acceptance by the run of right tokens so far: its sums, and how it is counted."""

import math
from itertools import product
from typing import Any

import pytest
from specrt import Error
from specrt.eval.acceptance import (
    Acceptance,
    AcceptanceCounts,
    counts_of,
    iid,
    random_matches,
    stored_counts,
)


def committed_by_enumeration(acceptance: list[float], draft_length: int) -> float:
    """Tokens of a round: leading accepted tokens + 1, over all outcomes of every drafted token."""
    expected = 0.0
    for holds in product((True, False), repeat=draft_length):
        probability, leading = 1.0, 0
        for hold, a in zip(holds, acceptance, strict=False):
            probability *= a if hold else 1.0 - a
        while leading < draft_length and holds[leading]:
            leading += 1
        expected += probability * (leading + 1)
    return expected


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("a", [0.0, 0.3, 0.95, 1.0])
def test_committed_tokens_are_those_of_all_outcomes(a: float, length: int) -> None:
    assert iid(a).committed(0, length + 1) == pytest.approx(
        committed_by_enumeration([a] * length, length)
    )
    if a < 1.0:
        closed = (1 - a ** (length + 1)) / (1 - a)
        assert iid(a).committed(0, length + 1) == pytest.approx(closed)


def test_committed_tokens_by_position() -> None:
    shares = [0.9, 0.5, 0.8, 0.8]  # the last of three goes on
    acceptance = Acceptance((0.9, 0.5, 0.8))
    assert acceptance.committed(0, 5) == pytest.approx(committed_by_enumeration(shares, 4))
    assert acceptance.committed(1, 4) == pytest.approx(committed_by_enumeration(shares[1:], 3))
    assert acceptance.all_accepted(1, 3) == pytest.approx(0.5 * 0.8 * 0.8)
    assert acceptance.all_accepted(0, 0) == 1.0


@pytest.mark.parametrize("values", [(), (-0.1,), (0.5, 1.1), (math.nan,)])
def test_what_is_no_probability_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="acceptance"):
        Acceptance(values)


def matches(text: str) -> list[bool]:
    return [letter == "+" for letter in text]


def test_counts_by_the_run_of_right_tokens_before() -> None:
    counts = counts_of([matches("++-+--"), matches("-"), matches("++++++++++-")])
    assert counts == AcceptanceCounts((5, 3, 2, 1, 1, 1, 1, 4), (3, 2, 1, 1, 1, 1, 1, 3))
    assert counts.tokens == 6 + 1 + 11
    assert counts.rate == pytest.approx(13 / 18)
    assert counts_of([]) is None
    assert counts_of([[]]) is None


def test_rare_positions_lean_on_the_one_before() -> None:
    acceptance = AcceptanceCounts((4, 2, 1), (3, 1, 1)).by_position()
    first, second = 3 / 4, (1 + 2 * 3 / 4) / 4
    assert acceptance.by_position == pytest.approx((first, second, (1 + 2 * second) / 3))
    assert AcceptanceCounts((4, 0), (1, 0)).by_position().by_position == (0.25, 0.25)


def test_random_matches_have_the_acceptance_that_they_are_drawn_from() -> None:
    acceptance = Acceptance((0.3, 0.9, 0.6))
    drawn = random_matches(acceptance, 60_000, seed=3)
    counts = counts_of([drawn])
    assert counts is not None
    found = counts.by_position().by_position
    assert found[:3] == pytest.approx(acceptance.by_position, abs=0.02)
    assert found[3:5] == pytest.approx((0.6, 0.6), abs=0.02)
    assert drawn == random_matches(acceptance, 60_000, seed=3)
    assert drawn != random_matches(acceptance, 60_000, seed=4)


def stored(reached: Any, accepted: Any) -> dict[str, Any]:
    return {"acceptance": {"reached_at_position": reached, "accepted_at_position": accepted}}


def test_counts_of_a_manifest() -> None:
    assert stored_counts(stored([9, 5], [5, 4])) == AcceptanceCounts((9, 5), (5, 4))
    assert stored_counts({}) is None  # tuned before acceptance was stored
    assert stored_counts({"acceptance": {}}) is None  # no draft model


@pytest.mark.parametrize(
    "damaged",
    [
        {"acceptance": 3},
        {"acceptance": {"reached_at_position": [1]}},
        stored([], []),
        stored([0], [0]),
        stored([3], [4]),
        stored([3, 2], [3]),
        stored([3.5], [1]),
        stored([True], [True]),
        stored([3], [-1]),
        stored([1] * 9, [1] * 9),
    ],
)
def test_damaged_counts_are_refused(damaged: dict[str, Any]) -> None:
    with pytest.raises(Error, match="specrt tune"):
        stored_counts(damaged)

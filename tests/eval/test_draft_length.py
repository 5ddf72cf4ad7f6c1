"""Expected tokens of a round, its cost, and the draft length that follows."""

import math
import random

import pytest
from specrt import Error
from specrt.eval.draft_length import (
    StepCosts,
    StepCurve,
    best_draft_length,
    best_measured_length,
    expected_tokens,
    expected_tokens_by_position,
    step_costs,
    step_curve,
)

FLAT = StepCosts(StepCurve(((1, 10.0), (64, 10.0))), StepCurve(((1, 1.0),)))


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("length", [0, 1, 4, 9])
def test_expected_tokens_are_those_of_simulated_rounds(acceptance: float, length: int) -> None:
    # The closed form equals the sum over prefixes: position i is reached with probability a^i.
    direct = sum(acceptance**i for i in range(length + 1))
    assert expected_tokens(acceptance, length) == pytest.approx(direct)
    generator = random.Random(length)
    rounds = 4000
    committed = 0
    for _ in range(rounds):
        accepted = 0
        while accepted < length and generator.random() < acceptance:
            accepted += 1
        committed += accepted + 1
    deviation = (length + 1) / math.sqrt(rounds)
    assert committed / rounds == pytest.approx(direct, abs=4 * deviation)


def test_expected_tokens_at_certain_acceptance() -> None:
    assert expected_tokens(1.0, 5) == 6.0


@pytest.mark.parametrize(("acceptance", "length"), [(-0.1, 2), (1.1, 2), (math.nan, 2), (0.5, -1)])
def test_expected_tokens_refuses_what_is_no_probability(acceptance: float, length: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        expected_tokens(acceptance, length)


def test_expected_tokens_by_position_adds_the_bonus() -> None:
    assert expected_tokens_by_position([0.5, 0.25]) == 1.75
    assert expected_tokens_by_position([]) == 1.0


def test_curve_is_linear_between_points_and_level_outside() -> None:
    curve = StepCurve(((2, 1.0), (4, 3.0), (8, 4.0)))
    assert [curve.at(n) for n in (1, 2, 3, 4, 6, 8, 64)] == [1.0, 1.0, 2.0, 3.0, 3.5, 4.0, 4.0]


def test_round_cost_is_one_target_step_and_every_draft_step() -> None:
    costs = StepCosts(StepCurve(((1, 10.0), (5, 14.0))), StepCurve(((1, 2.0),)))
    assert costs.round_ms(0) == 10.0
    assert costs.round_ms(4) == 14.0 + 4 * 2.0
    assert costs.speedup(3.0, 4) == pytest.approx(3.0 * 10.0 / 22.0)


def test_best_length_is_the_best_of_all_lengths() -> None:
    best = best_draft_length(FLAT, 0.8)
    speedups = [FLAT.speedup(expected_tokens(0.8, k), k) for k in range(17)]
    assert best.speedup == max(speedups)
    assert best.draft_length == speedups.index(max(speedups))
    assert best.tokens_per_round == expected_tokens(0.8, best.draft_length)


def test_nothing_is_drafted_where_drafting_does_not_pay() -> None:
    dear = StepCosts(FLAT.target, StepCurve(((1, 20.0),)))
    assert best_draft_length(dear, 0.9).draft_length == 0
    assert best_draft_length(FLAT, 0.0).draft_length == 0
    assert best_draft_length(dear, 0.9).speedup == 1.0


def test_measured_shares_limit_the_length() -> None:
    best = best_measured_length(FLAT, [0.9, 0.8, 0.05])
    assert best.draft_length == 2
    assert best.speedup == pytest.approx((1 + 0.9 + 0.8) * 10.0 / 12.0)
    assert best_measured_length(FLAT, []).draft_length == 0


def test_curves_of_a_manifest() -> None:
    curves = {"step_ms": {"target": {"1": 10, "16": 10.0}, "draft": {"1": 1.0}}}
    costs = step_costs(curves)
    assert costs is not None
    assert costs.round_ms(3) == 13.0
    assert step_costs({"step_ms": {"target": {"1": 10}}}) is None


@pytest.mark.parametrize(
    "damaged",
    [None, [], {}, {"x": 1}, {"1": "y"}, {"1": None}, {"1": -1}, {"0": 1}, {"1": 10**400}],
)
def test_damaged_curves_are_refused(damaged: object) -> None:
    with pytest.raises(Error, match="specrt tune"):
        step_curve(damaged)
    with pytest.raises(Error, match="specrt tune"):
        step_costs({"step_ms": {"target": damaged, "draft": {"1": 1}}})

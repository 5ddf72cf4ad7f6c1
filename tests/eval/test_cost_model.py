"""Predicted speed of decoding loops, by hand and by trying all lengths."""

import math

import pytest
from specrt.eval.acceptance import Acceptance, iid
from specrt.eval.cost_model import (
    MAX_GAMMA,
    SEPARATE_DEVICES,
    SHARED_BUS,
    autoregressive,
    best_as_measured,
    best_pearl,
    best_speculative,
    default_gamma,
    pearl,
    shared_bus,
    speculative,
    speculative_as_measured,
)
from specrt.eval.round_chain import pearl_tokens_per_round
from specrt.eval.step_costs import StepCosts, StepCurve


def costs_of(target_ms: float, draft_ms: float) -> StepCosts:
    """Steps that take as long whatever their rows."""
    return StepCosts(StepCurve(((1, target_ms),)), StepCurve(((1, draft_ms),)))


FLAT = costs_of(10.0, 1.0)
RISING = StepCosts(StepCurve(((1, 10.0), (5, 14.0))), StepCurve(((1, 2.0), (2, 3.0))))


def test_autoregressive_is_one_token_a_step() -> None:
    plain = autoregressive(RISING.target)
    assert (plain.draft_length, plain.speedup, plain.tokens_per_second) == (0, 1.0, 100.0)
    assert speculative(RISING, iid(0.9), 0) == plain


def test_speculative_pays_every_draft_step_and_one_target_step() -> None:
    held = 0.5**4
    found = speculative(RISING, iid(0.5), 4)
    assert found.tokens_per_round == pytest.approx(1.9375)
    assert found.round_ms == pytest.approx(14.0 + 3 * 2.0 + (1 - held) * 2.0 + held * 3.0)
    assert found.speedup == pytest.approx(1.9375 * 10.0 / found.round_ms)
    assert found.tokens_per_second == pytest.approx(100.0 * found.speedup)


def test_speculative_by_measured_rounds() -> None:
    found = speculative_as_measured(RISING, [0.9, 0.8, 0.05], 2)
    assert found.tokens_per_round == pytest.approx(1 + 0.9 + 0.8)
    assert found.round_ms == pytest.approx(RISING.target.at(3) + 2.0 + 0.2 * 2.0 + 0.8 * 3.0)
    assert speculative_as_measured(RISING, [0.9], 0) == autoregressive(RISING.target)
    # Shares of independent tokens say the same as their acceptance.
    shares = [0.7, 0.7**2, 0.7**3]
    by_shares, model = speculative_as_measured(RISING, shares, 3), speculative(RISING, iid(0.7), 3)
    assert by_shares.tokens_per_second == pytest.approx(model.tokens_per_second)


def test_measured_shares_limit_the_length() -> None:
    best = best_as_measured(FLAT, [0.9, 0.8, 0.05])
    assert best.draft_length == 2
    assert best.speedup == pytest.approx((1 + 0.9 + 0.8) * 10.0 / 12.0)
    assert best_as_measured(FLAT, [0.9]).draft_length == 1
    assert best_as_measured(FLAT, []).draft_length == 0


@pytest.mark.parametrize("a", [0.3, 0.8, 1.0])
def test_pearl_on_separate_devices_waits_for_the_longer_side(a: float) -> None:
    for gamma, round_ms in ((4, 10.0), (10, 10.0), (15, 15.0)):
        found = pearl(FLAT, iid(a), gamma, SEPARATE_DEVICES)
        tokens = pearl_tokens_per_round(a, gamma)
        assert found.tokens_per_round == pytest.approx(tokens)
        assert found.round_ms == pytest.approx(round_ms)
        assert found.speedup == pytest.approx(tokens * 10.0 / round_ms)


def test_pearl_pays_one_row_before_and_gamma_rows_behind_a_refusal() -> None:
    a, gamma = 0.6, 5
    post_verify = a / (1 + a - a**gamma)
    found = pearl(RISING, iid(a), gamma, SEPARATE_DEVICES)
    assert found.round_ms == pytest.approx((1 - post_verify) * 10.0 + post_verify * 14.0)


def test_round_on_a_shared_bus_is_bound_by_bytes_or_by_the_longer_side() -> None:
    # 8 GB and 1 GB at 1000 GB/s: 8 ms and 1 ms of the bus.
    bus = shared_bus(8 * 10**9, 10**9, 1e12)
    assert bus.round_ms(10.0, [1.5] * 4) == pytest.approx(8.0 + 4.0)
    assert bus.round_ms(10.0, [1.5]) == 10.0
    assert bus.round_ms(10.0, [4.0] * 4) == 16.0
    # No step needs the bus for longer than it takes.
    assert bus.round_ms(5.0, [0.5] * 6) == 8.0
    assert bus.round_ms(10.0, []) == 10.0


def test_without_bytes_a_shared_bus_hides_nothing_and_separate_devices_all() -> None:
    assert SHARED_BUS.round_ms(10.0, [1.0, 2.0]) == 13.0
    assert SEPARATE_DEVICES.round_ms(10.0, [1.0, 2.0]) == 10.0
    assert SEPARATE_DEVICES.round_ms(2.0, [1.0, 2.0]) == 3.0
    for bandwidth in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="bandwidth must be positive"):
            shared_bus(1, 1, bandwidth)


@pytest.mark.parametrize("a", [0.3, 0.7, 0.95])
def test_pearl_is_slower_than_speculative_where_steps_take_turns(a: float) -> None:
    lockstep = best_speculative(FLAT, iid(a))
    shared = best_pearl(FLAT, iid(a), SHARED_BUS)
    separate = best_pearl(FLAT, iid(a), SEPARATE_DEVICES)
    assert shared.speedup < lockstep.speedup
    assert shared.speedup < separate.speedup


@pytest.mark.parametrize("acceptance", [iid(0.8), Acceptance((0.9, 0.4, 0.7))])
def test_best_lengths_are_the_best_of_all(acceptance: Acceptance) -> None:
    rates = [speculative(RISING, acceptance, k).tokens_per_second for k in range(17)]
    best = best_speculative(RISING, acceptance)
    assert best.tokens_per_second == max(rates) == rates[best.draft_length]
    for overlap in (SEPARATE_DEVICES, SHARED_BUS, shared_bus(7, 1, 1000.0)):
        gammas = range(1, MAX_GAMMA + 1)
        rates = [pearl(RISING, acceptance, g, overlap).tokens_per_second for g in gammas]
        best = best_pearl(RISING, acceptance, overlap)
        assert best.tokens_per_second == max(rates) == rates[best.draft_length - 1]
    assert best_speculative(RISING, acceptance, 1).draft_length <= 1


def test_best_gamma_on_separate_devices_is_the_ratio_of_the_step_times() -> None:
    # Theorem 1 of the paper: a shorter draft lets the drafter wait, a longer one the target.
    for ratio in (2, 5, 9):
        costs = costs_of(float(ratio), 1.0)
        for a in (0.5, 0.8, 0.95):
            assert best_pearl(costs, iid(a), SEPARATE_DEVICES).draft_length == ratio
            assert default_gamma(costs) == ratio


def test_default_gamma_is_a_length_that_can_be_drafted() -> None:
    assert default_gamma(costs_of(10.0, 3.0)) == 3
    assert default_gamma(costs_of(1.0, 10.0)) == 1
    assert default_gamma(costs_of(1000.0, 1.0)) == MAX_GAMMA


def test_nothing_is_drafted_where_drafting_does_not_pay() -> None:
    dear = costs_of(10.0, 20.0)
    assert best_speculative(dear, iid(0.9)) == autoregressive(dear.target)
    assert best_speculative(FLAT, iid(0.0)).draft_length == 0


def test_lengths_below_the_least_are_refused() -> None:
    with pytest.raises(ValueError, match="draft_length must be >= 0"):
        speculative(FLAT, iid(0.5), -1)
    with pytest.raises(ValueError, match="gamma must be >= 1"):
        pearl(FLAT, iid(0.5), 0, SEPARATE_DEVICES)

"""Simulated rounds: by hand, against every outcome of short runs, and against the cost model."""

import random
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import pytest
from specrt.eval.acceptance import Acceptance, iid, random_matches
from specrt.eval.cost_model import SEPARATE_DEVICES, SHARED_BUS, Overlap, pearl, speculative
from specrt.eval.simulator import Simulation, simulate_pearl, simulate_speculative
from specrt.eval.step_costs import StepCosts, StepCurve

# Powers of ten, so that a time tells which steps it is the sum of.
COSTS = StepCosts(
    StepCurve(((1, 1000.0), (2, 2000.0), (3, 3000.0), (4, 4000.0))),
    StepCurve(((1, 1.0), (2, 10.0), (3, 100.0))),
)
SHARES = (0.7, 0.4, 0.9)


def matches(text: str) -> list[bool]:
    """ "+" where the draft model is right, "." where nobody looks."""
    return [letter == "+" for letter in text]


def test_autoregressive_is_a_round_for_every_token_after_the_first() -> None:
    run = simulate_speculative(COSTS, matches("+-+-+"), 0)
    assert run == Simulation(5, rounds=5, refusals=0, ms=5000.0, draft_ms=0.0, hidden_ms=0.0)
    assert run.tokens_between_refusals == float("inf")
    assert run.hidden_draft_share == 0.0


def test_lockstep_feeds_two_rows_after_a_draft_that_held_and_one_after_a_refusal() -> None:
    # Three tokens and a bonus, one and its replacement, three and a bonus.
    run = simulate_speculative(COSTS, matches("+++." + "+-" + "+++."), 3)
    assert (run.tokens, run.rounds, run.refusals) == (10, 3, 1)
    assert run.draft_ms == (1 + 1 + 1) + (10 + 1 + 1) + (1 + 1 + 1)
    assert run.ms == 3 * 4000.0 + run.draft_ms
    assert run.hidden_draft_share == 0.0
    assert run.mean_acceptance_length == pytest.approx(10 / 3)
    assert run.tokens_between_refusals == 10.0


def test_lockstep_drafts_less_near_the_limit() -> None:
    # Three tokens and a bonus; then one and the bonus, the last token.
    run = simulate_speculative(COSTS, matches("+++." + "+."), 3)
    assert (run.tokens, run.rounds) == (6, 2)
    assert run.ms == 4000.0 + 3.0 + 2000.0 + 10.0


def test_pearl_feeds_one_row_in_pre_verify_and_gamma_in_post_verify() -> None:
    # Pre-verify holds, post-verify holds, is refused at its second token, pre-verify is refused;
    # the limit ends the last round before its draft is judged.
    run = simulate_pearl(COSTS, matches("+" + "+++" + "+-" + "-" + "."), 3, SEPARATE_DEVICES)
    assert run.tokens == 8
    assert (run.rounds, run.refusals) == (5, 2)
    assert run.ms == 1000.0 + 3000.0 + 3000.0 + 1000.0 + 1000.0
    # All first steps feed one row; below the limit there is room for 2, 2 and 1 tokens at last.
    assert run.draft_ms == 3 + 3 + 2 + 2 + 1
    assert run.hidden_draft_share == 1.0
    assert run.tokens_between_refusals == 4.0


def test_pearl_refused_where_nothing_is_left_to_draft_drafts_again() -> None:
    # The tail reaches the limit, its third token is refused: there is room for one token again.
    run = simulate_pearl(COSTS, matches("+" + "+-" + "."), 4, SEPARATE_DEVICES)
    assert (run.tokens, run.rounds, run.refusals) == (4, 3, 1)
    assert run.ms == 1000.0 + 4000.0 + 1000.0
    assert run.draft_ms == 4 + 0 + 1


def test_share_of_the_drafting_that_is_hidden() -> None:
    costs = StepCosts(StepCurve(((1, 10.0),)), StepCurve(((1, 5.0),)))

    text = random_matches(iid(0.5), 2000, seed=1)

    def share(gamma: int, overlap: Overlap) -> float:
        return simulate_pearl(costs, text, gamma, overlap).hidden_draft_share

    assert share(1, SEPARATE_DEVICES) == 1.0
    assert share(2, SEPARATE_DEVICES) == 1.0
    assert share(4, SEPARATE_DEVICES) == pytest.approx(0.5, abs=0.01)
    assert share(4, SHARED_BUS) == 0.0
    # The bus takes 8 ms of the target's 10 and all of the draft's: 2 of every 5 ms are hidden.
    assert share(1, Overlap(8.0, 5.0)) == pytest.approx(0.4, abs=0.01)


def expected(simulate: Callable[[Sequence[bool]], Simulation], tokens: int) -> float:
    """Mean time over every text, each as likely as SHARES makes it."""
    total = 0.0
    for text in product((True, False), repeat=tokens):
        probability, run = 1.0, 0
        for right in text:
            share = SHARES[min(run, 2)]
            probability *= share if right else 1.0 - share
            run = run + 1 if right else 0
        simulated = simulate(text)
        assert simulated.tokens == tokens
        total += probability * simulated.ms
    return total


@pytest.mark.parametrize("length", [1, 2, 3])
def test_expected_time_of_lockstep_runs_is_that_of_all_outcomes(length: int) -> None:
    @cache
    def rest_ms(left: int, run: int, first_rows: int) -> float:
        """Of the rest, by the number of tokens that the next round commits."""
        if left == 0:
            return 0.0
        drafted = min(length, left - 1)
        drafting = COSTS.draft.at(first_rows) + (drafted - 1) * 1.0 if drafted else 0.0
        total, reached = COSTS.target.at(drafted + 1) + drafting, 1.0
        for accepted in range(drafted):
            share = SHARES[min(run + accepted, 2)]
            total += reached * (1.0 - share) * rest_ms(left - accepted - 1, 0, 1)
            reached *= share
        left -= drafted + 1
        share = SHARES[min(run + drafted, 2)]
        bonus = share * rest_ms(left, run + drafted + 1, 2) + (1 - share) * rest_ms(left, 0, 2)
        return total + reached * bonus

    found = expected(lambda text: simulate_speculative(COSTS, text, length), tokens=8)
    assert found == pytest.approx(rest_ms(8, 0, 1))


@pytest.mark.parametrize("gamma", [1, 2, 3])
def test_expected_time_of_pearl_runs_is_that_of_all_outcomes(gamma: int) -> None:
    @cache
    def rest_ms(left: int, tail: int, run: int) -> float:
        """`left` counts from the committed length; the tail's first token belongs to that."""
        if left == 0:
            return 0.0
        drafted = min(gamma, left + 1 - tail)
        total, reached = max(COSTS.target.at(tail), float(drafted)), 1.0
        for done in range(1, tail + (drafted > 0)):
            if done == left:  # the limit ends the run before the draft is looked at
                return total
            share = SHARES[min(run + done - 1, 2)]
            total += reached * (1.0 - share) * rest_ms(left - done, 1, 0)
            reached *= share
        assert drafted > 0  # without a draft the tail reaches the limit
        return total + reached * rest_ms(left - tail, drafted, run + tail)

    found = expected(lambda text: simulate_pearl(COSTS, text, gamma, SEPARATE_DEVICES), tokens=8)
    assert found == pytest.approx(rest_ms(8, 1, 0))


def even_matches(a: float, count: int, seed: int) -> list[bool]:
    """As good as independent tokens, but exactly a share `a` is right: no luck in the mean."""
    right = round(a * count)
    text = [True] * right + [False] * (count - right)
    random.Random(seed).shuffle(text)
    return text


@pytest.mark.parametrize("a", [0.4, 0.7, 0.9])
@pytest.mark.parametrize("ratio", [2.5, 6.0, 15.0])
def test_cost_model_agrees_within_a_percent(a: float, ratio: float) -> None:
    target = StepCurve(((1, ratio), (8, 1.2 * ratio), (64, 4.0 * ratio)))
    costs = StepCosts(target, StepCurve(((1, 1.0), (2, 1.1))))
    length, text = round(ratio), even_matches(a, 30_000, seed=1)
    run = simulate_speculative(costs, text, length)
    model = speculative(costs, iid(a), length)
    assert run.tokens_per_second == pytest.approx(model.tokens_per_second, rel=0.01)
    assert run.mean_acceptance_length == pytest.approx(model.tokens_per_round, rel=0.01)
    for overlap in (SEPARATE_DEVICES, Overlap(0.7 * ratio, 0.6)):
        run = simulate_pearl(costs, text, length, overlap)
        model = pearl(costs, iid(a), length, overlap)
        assert run.tokens_per_second == pytest.approx(model.tokens_per_second, rel=0.01)
        assert run.mean_acceptance_length == pytest.approx(model.tokens_per_round, rel=0.01)
        assert run.tokens_between_refusals == pytest.approx(1 / (1 - a), rel=0.01)


@pytest.mark.parametrize("length", [1, 3, 8])
def test_cost_model_agrees_by_position(length: int) -> None:
    costs = StepCosts(StepCurve(((1, 4.0), (8, 5.0))), StepCurve(((1, 1.0), (2, 1.5))))
    acceptance = Acceptance((0.8, 0.6, 0.9, 0.7))
    text = random_matches(acceptance, 60_000, seed=5)
    run = simulate_speculative(costs, text, length)
    model = speculative(costs, acceptance, length)
    assert run.tokens_per_second == pytest.approx(model.tokens_per_second, rel=0.01)
    run = simulate_pearl(costs, text, length, SEPARATE_DEVICES)
    model = pearl(costs, acceptance, length, SEPARATE_DEVICES)
    assert run.tokens_per_second == pytest.approx(model.tokens_per_second, rel=0.01)


def test_numbers_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="draft_length must be >= 0, not -1"):
        simulate_speculative(COSTS, [True], -1)
    with pytest.raises(ValueError, match="gamma must be >= 1, not 0"):
        simulate_pearl(COSTS, [True], 0, SEPARATE_DEVICES)
    with pytest.raises(ValueError, match="at least one token"):
        simulate_speculative(COSTS, [], 1)

"""Chains of rounds: against closed forms, against dice, and against all outcomes."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
from specrt.eval.acceptance import Acceptance, iid
from specrt.eval.round_chain import pearl_chain, pearl_tokens_per_round, speculative_chain

BY_POSITION = (0.7, 0.9, 0.5, 0.95, 0.6)


def dice(shares: tuple[float, ...], seed: int) -> Iterator[bool]:
    """Whether the draft model is right, token by token."""
    generator, run = random.Random(seed), 0
    while True:
        right = generator.random() < shares[min(run, len(shares) - 1)]
        yield right
        run = run + 1 if right else 0


def rolled_pearl(right: Iterator[bool], gamma: int, rounds: int) -> float:
    """Tokens per round of PEARL as the paper tells it: a mode, and what a step verifies."""
    verified, post_verify = 0, False
    for _ in range(rounds):
        if not post_verify:
            post_verify = next(right)  # the first token of the draft
            verified += 1  # that token, or its replacement
            continue
        for _ in range(gamma):  # gamma - 1 tokens of the last draft, the first of the next
            verified += 1
            if not next(right):
                post_verify = False
                break
    return verified / rounds


def rolled_speculative(right: Iterator[bool], length: int, rounds: int) -> float:
    """Tokens per round of draft and verify; nobody drafts the token of the bonus."""
    committed = 0
    for _ in range(rounds):
        accepted = 0
        while accepted < length and next(right):
            accepted += 1
        if accepted == length:
            next(right)
        committed += accepted + 1
    return committed / rounds


@pytest.mark.parametrize("gamma", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("a", [0.0, 0.2, 0.5, 0.8, 0.95, 1.0])
def test_chain_and_closed_form_agree(a: float, gamma: int) -> None:
    chain = pearl_chain(iid(a), gamma)
    assert chain.transition.sum(axis=1) == pytest.approx(1.0)
    shares = chain.stationary()
    assert shares.sum() == pytest.approx(1.0)
    assert shares @ chain.transition == pytest.approx(shares)
    assert chain.tokens_per_round() == pytest.approx(pearl_tokens_per_round(a, gamma))


@pytest.mark.parametrize(("a", "gamma"), [(0.3, 2), (0.5, 5), (0.8, 5), (0.9, 3)])
def test_chain_and_closed_form_agree_with_dice(a: float, gamma: int) -> None:
    rolled = rolled_pearl(dice((a,), gamma), gamma, 150_000)
    assert pearl_tokens_per_round(a, gamma) == pytest.approx(rolled, rel=0.01)
    assert pearl_chain(iid(a), gamma).tokens_per_round() == pytest.approx(rolled, rel=0.01)


@pytest.mark.parametrize("gamma", [1, 2, 3, 9])
def test_pearl_chain_by_position_agrees_with_dice(gamma: int) -> None:
    rolled = rolled_pearl(dice(BY_POSITION, gamma), gamma, 150_000)
    chain = pearl_chain(Acceptance(BY_POSITION), gamma)
    assert chain.tokens_per_round() == pytest.approx(rolled, rel=0.01)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 9])
def test_speculative_chain_by_position_agrees_with_dice(length: int) -> None:
    rolled = rolled_speculative(dice(BY_POSITION, length), length, 150_000)
    chain = speculative_chain(Acceptance(BY_POSITION), length)
    assert chain.tokens_per_round() == pytest.approx(rolled, rel=0.01)


@pytest.mark.parametrize("a", [0.0, 0.6, 1.0])
def test_speculative_chain_of_iid_acceptance_has_one_state(a: float) -> None:
    chain = speculative_chain(iid(a), 4)
    assert chain.rows == (5,)
    assert chain.tokens_per_round() == pytest.approx(sum(a**i for i in range(5)))


def test_known_speed_ups_where_the_draft_is_five_times_as_fast() -> None:
    # On two devices a round of gamma = t_target / t_draft takes t_target, so these are speed-ups.
    found = [round(pearl_tokens_per_round(a, 5), 2) for a in (0.5, 0.8, 0.9)]
    assert found == [1.32, 2.28, 3.13]


@pytest.mark.parametrize("gamma", [1, 2, 3])
def test_first_rounds_are_those_of_all_outcomes(gamma: int) -> None:
    acceptance, rounds = Acceptance((0.6, 0.8, 0.3)), 4

    def enumerated(left: int, position: int) -> float:
        """Expected tokens of the next rounds, over every outcome of every judged token."""
        if left == 0:
            return 0.0
        rows = 1 if position == 0 else gamma
        expected, reached = 0.0, 1.0
        for count in range(1, rows + 1):
            a = (0.6, 0.8, 0.3)[min(position + count - 1, 2)]
            expected += reached * (1.0 - a) * (count + enumerated(left - 1, 0))
            reached *= a
        return expected + reached * (rows + enumerated(left - 1, position + rows))

    chain = pearl_chain(acceptance, gamma)
    state, tokens = np.eye(len(chain.rows))[0], 0.0
    for _ in range(rounds):
        tokens += float(state @ np.array(chain.tokens))
        state = state @ chain.transition
    assert tokens == pytest.approx(enumerated(rounds, 0))


def test_states_that_cannot_be_reached_are_left_out() -> None:
    chain = pearl_chain(Acceptance((0.0, 1.0)), 4)
    assert chain.rows == (1,)
    assert chain.tokens_per_round() == 1.0
    assert len(pearl_chain(iid(0.5), 4).rows) == 2
    assert pearl_chain(Acceptance((0.5,) * 6), 2).first == (0, 1, 3, 5)
    assert speculative_chain(Acceptance((0.5,) * 6), 2).first == (0, 3, 6)


def test_lengths_below_the_least_are_refused() -> None:
    with pytest.raises(ValueError, match="gamma must be >= 1, not 0"):
        pearl_chain(iid(0.5), 0)
    with pytest.raises(ValueError, match="draft_length must be >= 0, not -1"):
        speculative_chain(iid(0.5), -1)

"""Rule `exact`: the picked tokens follow the warped distribution and depend on the key alone."""

import numpy as np

from .gumbel import gumbel
from .pick import pick
from .warp import GREEDY, Sampling, warp

ROW = np.random.default_rng(11).normal(size=12) * 2


def test_greedy_takes_the_lowest_id_on_ties() -> None:
    """Temperature 0 needs no noise."""
    assert pick(np.array([1.0, 3.0, 3.0]), 5, 1, GREEDY) == 1


def test_definition() -> None:
    """Argmax of logit / T + G."""
    for position in range(50):
        expected = int(np.argmax(ROW / 0.7 + gumbel(9, position, np.arange(12))))
        assert pick(ROW, position, 9, Sampling(temperature=0.7)) == expected


def test_distribution_of_picks() -> None:
    """Chi-square against the warped distribution; removed tokens never appear."""
    sampling = Sampling(temperature=1.3, top_k=8, top_p=0.95, min_p=0.02)
    p = np.exp(warp(ROW, sampling))
    n = 8000
    counts = np.bincount([pick(ROW, i, 3, sampling) for i in range(n)], minlength=12)
    assert not counts[p == 0].any()
    live = p > 0
    chi_square = ((counts - n * p)[live] ** 2 / (n * p)[live]).sum()
    assert chi_square < 24.3  # at most 7 degrees of freedom, 0.1 % level


def test_token_ids_key_the_noise() -> None:
    """A drafter with a part of the vocabulary picks what the target would pick among it."""
    ids = np.array([2, 3, 7, 11])
    for position in range(50):
        masked = np.full(12, -np.inf)
        masked[ids] = ROW[ids]
        assert ids[pick(ROW[ids], position, 4, Sampling(), ids)] == pick(
            masked, position, 4, Sampling()
        )

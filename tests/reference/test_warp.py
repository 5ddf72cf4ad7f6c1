"""Warping: every step alone, the order of the steps, ties, and refusals."""

from typing import Any

import numpy as np
import pytest

from .warp import GREEDY, Sampling, log_softmax, warp

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15]))


def kept(logits: Any, sampling: Sampling) -> list[int]:
    """Ids that survive."""
    return np.flatnonzero(np.isfinite(warp(np.asarray(logits), sampling))).tolist()


def test_plain_sampling_is_the_softmax() -> None:
    """Nothing is removed by the defaults."""
    np.testing.assert_allclose(np.exp(warp(LOGITS, Sampling())), np.exp(LOGITS), rtol=1e-14)


def test_temperature() -> None:
    """Logits are divided by the temperature."""
    expected = log_softmax(LOGITS / 0.5)
    np.testing.assert_allclose(warp(LOGITS, Sampling(temperature=0.5)), expected)


def test_survivors_are_renormalised() -> None:
    """Probabilities of what is left sum to one and keep their ratios."""
    p = np.exp(warp(LOGITS, Sampling(top_k=2)))
    np.testing.assert_allclose(p, [0, 4 / 7, 0, 3 / 7, 0], atol=1e-15)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(top_k=1), [1]),
        (Sampling(top_k=3), [1, 3, 4]),
        (Sampling(top_k=99), [0, 1, 2, 3, 4]),
        (Sampling(top_p=0.39), [1]),
        (Sampling(top_p=0.41), [1, 3]),
        (Sampling(top_p=0.69), [1, 3]),
        (Sampling(top_p=0.71), [1, 3, 4]),
        (Sampling(top_p=1e-9), [1]),
        (Sampling(top_p=0.999), [0, 1, 2, 3, 4]),
        (Sampling(min_p=0.3), [1, 3, 4]),
        (Sampling(min_p=0.76), [1]),
        (Sampling(min_p=1.0), [1]),
    ],
)
def test_single_steps(sampling: Sampling, expected: list[int]) -> None:
    """Each step alone; the token that crosses top_p is kept."""
    assert kept(LOGITS, sampling) == expected


def test_top_p_sees_the_survivors_of_top_k_renormalised() -> None:
    """0.4 of 0.7 is 0.571: it reaches 0.55 after top-k, but not before."""
    assert kept(LOGITS, Sampling(top_p=0.55)) == [1, 3]
    assert kept(LOGITS, Sampling(top_k=2, top_p=0.55)) == [1]


def test_top_p_sees_the_temperature() -> None:
    """At half the temperature 0.4 becomes 0.16 / 0.295 = 0.542."""
    assert kept(LOGITS, Sampling(temperature=0.5, top_p=0.54)) == [1]


def test_min_p_sees_the_temperature() -> None:
    """0.3 / 0.4 squared is 0.5625."""
    assert kept(LOGITS, Sampling(temperature=0.5, min_p=0.56)) == [1, 3]
    assert kept(LOGITS, Sampling(temperature=0.5, min_p=0.57)) == [1]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(top_k=2), [1, 2]),
        (Sampling(top_p=0.5), [1, 2]),
        (Sampling(top_p=0.6), [1, 2, 4]),
        (Sampling(min_p=1.0), [1, 2, 4, 5]),
        (GREEDY, [1]),
    ],
)
def test_ties_go_to_lower_ids(sampling: Sampling, expected: list[int]) -> None:
    """Four equal largest logits."""
    assert kept([-50.0, 3.0, 3.0, -50.0, 3.0, 3.0], sampling) == expected


def test_greedy_is_one_hot() -> None:
    """Temperature 0 puts all probability on the argmax."""
    assert warp(LOGITS, GREEDY).tolist() == [-np.inf, 0.0, -np.inf, -np.inf, -np.inf]


def test_masked_logits_never_return() -> None:
    """-inf stays -inf, even where top-k asks for more tokens than there are."""
    assert kept([1.0, -np.inf, 0.0], Sampling(top_k=3, top_p=0.9999)) == [0, 2]


def test_rows_are_independent() -> None:
    """A batch (..., v) is warped row by row, float32 included."""
    rows = np.random.default_rng(3).normal(size=(2, 3, 17)).astype(np.float32)
    sampling = Sampling(temperature=0.8, top_k=9, top_p=0.9, min_p=0.05)
    together = warp(rows, sampling)
    assert together.dtype == np.float64
    for index in np.ndindex(2, 3):
        assert np.array_equal(together[index], warp(rows[index], sampling))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", np.inf),
        ("temperature", np.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.5),
    ],
)
def test_refuses_values_without_meaning(field: str, value: float) -> None:
    """Bad options name the field."""
    with pytest.raises(ValueError, match=field):
        Sampling(**{field: value})  # type: ignore[arg-type]

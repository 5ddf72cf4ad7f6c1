"""Gumbel noise: range, distribution, and that Gumbel-max draws from the softmax."""

import numpy as np
import pytest

from .gumbel import gumbel, gumbel_of, uniform, uniform_float32
from .philox import Purpose
from .tolerances import assert_close

EULER = 0.5772156649015329


def test_ends_of_the_range() -> None:
    """The extreme bit patterns give finite noise, never 0 or 1."""
    bits = np.array([0, 0xFFFFFFFF], dtype=np.uint32)
    assert uniform(bits).tolist() == [2.0**-33, 1 - 2.0**-33]
    np.testing.assert_allclose(gumbel_of(uniform(bits)), [22.8739, -3.1299], atol=1e-4)


def test_float32_uniform_stays_below_one() -> None:
    """In float32 the largest patterns round to 1 and are capped."""
    bits = np.array([0, 0xFFFFFF7F, 0xFFFFFF80, 0xFFFFFFFF], dtype=np.uint32)
    r = uniform_float32(bits)
    assert r.dtype == np.float32
    assert 0 < r[0] < 1
    assert (r[1:] == np.float32(1 - 2.0**-24)).all()
    assert np.isfinite(gumbel_of(r)).all()


def test_float32_uniform_is_the_rounded_one() -> None:
    """Away from the cap it is r to float32 precision."""
    bits = np.random.default_rng(5).integers(0, 2**32, 1000, dtype=np.uint32)
    np.testing.assert_allclose(uniform_float32(bits), uniform(bits), rtol=2.0**-23)


def test_float32_arithmetic_is_within_the_table() -> None:
    """A float32 implementation meets the tolerance for noise."""
    bits = np.random.default_rng(5).integers(0, 2**32, 100_000, dtype=np.uint32)
    bits[:4] = [0, 1, 0x80000000, 0xFFFFFFFF]
    r = uniform_float32(bits)
    assert_close(-np.log(-np.log1p(-r)), gumbel_of(r), "gumbel", "f32")


def test_float32_error_matters_in_the_low_tail_only() -> None:
    """Rounding r moves noise above -1 by less than 1e-5."""
    bits = np.random.default_rng(6).integers(0, 2**32, 100_000, dtype=np.uint32)
    exact, rounded = gumbel_of(uniform(bits)), gumbel_of(uniform_float32(bits))
    assert np.abs(exact - rounded)[exact > -1].max() < 1e-5


def test_moments_and_distribution_function() -> None:
    """Mean, variance and the Kolmogorov-Smirnov distance to exp(-exp(-x))."""
    n = 100_000
    noise = np.sort(gumbel(2024, np.arange(n // 1000)[:, None], np.arange(1000)).ravel())
    assert abs(noise.mean() - EULER) < 5 * np.sqrt(np.pi**2 / 6 / n)
    assert abs(noise.var() / (np.pi**2 / 6) - 1) < 0.03
    distance = np.abs(np.exp(-np.exp(-noise)) - (np.arange(n) + 0.5) / n).max()
    assert distance * np.sqrt(n) < 1.95  # 0.1 % level


@pytest.mark.parametrize("axis", ["positions", "tokens", "seeds", "purposes"])
def test_neighbours_are_uncorrelated(axis: str) -> None:
    """Noise of neighbouring keys has no visible correlation."""
    n = 20_000
    keys = np.arange(n)
    first = gumbel(1, keys, 5)
    second = {
        "positions": gumbel(1, keys + 1, 5),
        "tokens": gumbel(1, keys, 6),
        "seeds": gumbel(2, keys, 5),
        "purposes": gumbel(1, keys, 5, Purpose.DRAFT),
    }[axis]
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(n)


def test_gumbel_max_draws_from_the_softmax() -> None:
    """Chi-square of argmax(log p + G) over positions."""
    p = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])
    n = 40_000
    draws = (np.log(p) + gumbel(7, np.arange(n)[:, None], np.arange(p.size))).argmax(axis=1)
    counts = np.bincount(draws, minlength=p.size)
    chi_square = ((counts - n * p) ** 2 / (n * p)).sum()
    assert chi_square < 20.5  # 5 degrees of freedom, 0.1 % level

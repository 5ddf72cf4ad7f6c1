"""Gumbel noise from random bits.

Source: the Gumbel-max trick (Maddison, Tarlow, Minka, "A* sampling", NeurIPS 2014, section 2):
argmax(log p + G) with independent standard Gumbel G is a draw from p.

The form -log(-log1p(-r)) puts the fine end of r, near 0, at the large values of G, where they
decide. -log(-log u) with u near 1 ties there, and in float32 gives infinity.
"""

import numpy as np

from .arrays import Doubles, Floats, Ints, Words
from .philox import Purpose, noise_bits

LARGEST_BELOW_ONE = np.float32(1 - 2**-24)


def uniform(bits: Words) -> Doubles:
    """Uniform r = (bits + 0.5) 2^-32, exact in float64: never 0, never 1."""
    return (np.asarray(bits).astype(np.float64) + 0.5) * 2.0**-32


def uniform_float32(bits: Words) -> Floats:
    """Give the same r as float32 arithmetic has it: rounded, and capped below 1.

    The runtime computes in float32. Near 1 the rounding of r is visible in the lowest values of
    the noise (-3.13 becomes -2.81), so compare it with `gumbel_of(uniform_float32(bits))`.
    """
    r = (np.asarray(bits).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    return np.asarray(np.minimum(r, LARGEST_BELOW_ONE))


def gumbel_of(r: Floats) -> Doubles:
    """Turn a uniform r in (0, 1) into Gumbel noise: E = -log1p(-r), G = -log E, in float64."""
    exponential = -np.log1p(-np.asarray(r, dtype=np.float64))
    return np.asarray(-np.log(exponential), dtype=np.float64)


def gumbel(
    seed: int,
    position: Ints | int,
    token: Ints | int,
    purpose: Purpose = Purpose.TOKEN,
    anchor: Ints | int = 0,
) -> Doubles:
    """G(seed, position, token) in float64; position and token broadcast."""
    return gumbel_of(uniform(noise_bits(seed, position, purpose, token, anchor)))

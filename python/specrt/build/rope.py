"""Inverse rotary frequencies, in float32 as Hugging Face transformers computes them."""

import numpy as np
from numpy.typing import NDArray

from specrt.build.config import Llama3Scaling, Rope

_TWO_PI = np.float32(2 * np.pi)


def _llama3(plain: NDArray[np.float32], scaling: Llama3Scaling) -> NDArray[np.float32]:
    """Stretch long wavelengths; follows `_compute_llama3_parameters` of transformers."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    wavelength = _TWO_PI / plain
    is_long = wavelength > np.float32(scaling.original_context / low)
    is_short = wavelength < np.float32(scaling.original_context / high)
    factor = np.float32(scaling.factor)
    stretched = np.where(is_long, plain / factor, plain)
    smooth = np.float32(scaling.original_context) / wavelength - np.float32(low)
    smooth = smooth / np.float32(high - low)
    blended = (np.float32(1) - smooth) * stretched / factor + smooth * stretched
    return np.asarray(np.where(is_long | is_short, stretched, blended), np.float32)


def inverse_frequencies(rope: Rope, head_dim: int) -> NDArray[np.float32]:
    """Inverse frequencies (head_dim / 2,) in radians per position.

    The power is taken in float64 and rounded: NumPy's float32 power depends on the machine and is
    a unit in the last place further from PyTorch's.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    powers = np.float64(np.float32(rope.theta)) ** exponents.astype(np.float64)
    plain = np.float32(1) / powers.astype(np.float32)
    return plain if rope.scaling is None else _llama3(plain, rope.scaling)

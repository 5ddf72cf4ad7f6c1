"""The ops against formulas written out by hand, and the properties they must have."""

import math
from typing import Any

import numpy as np
import pytest

from . import ops

RNG = np.random.default_rng(17)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1.0, 1.0),
        (1 + 2.0**-8, 1.0),  # tie, to even
        (1 + 3 * 2.0**-8, 1 + 2.0**-6),  # tie, to even
        (1 + 2.0**-8 + 2.0**-20, 1 + 2.0**-7),
        (-1 - 3 * 2.0**-8, -1 - 2.0**-6),
        (3.3961775e38, math.inf),  # above the largest bfloat16, nearer to the next step
        (math.inf, math.inf),
        (-0.0, -0.0),
        (2.0**-133, 2.0**-133),  # smallest subnormal
    ],
)
def test_bf16_round(value: float, rounded: float) -> None:
    """To nearest, ties to even; sign of zero, infinity and subnormals included."""
    result = ops.bf16_round(np.array([value], dtype=np.float32))
    assert result[0] == rounded
    assert np.signbit(result[0]) == np.signbit(np.float32(rounded))


def test_bf16_nan_stays_nan() -> None:
    """Also where rounding would carry into the exponent."""
    patterns = np.array([0x7F800001, 0x7FFFFFFF, 0xFFC00000], dtype=np.uint32)
    assert np.isnan(ops.bf16_round(patterns.view(np.float32))).all()


def test_bf16_is_the_nearest() -> None:
    """No bfloat16 neighbour is nearer."""
    x = (RNG.normal(size=2000) * 10.0 ** RNG.integers(-30, 30, 2000)).astype(np.float32)
    bits = ops.bf16_bits(x)
    error = np.abs(ops.bf16_values(bits).astype(np.float64) - x)
    for neighbour in (bits - 1, bits + 1):
        assert (error <= np.abs(ops.bf16_values(neighbour).astype(np.float64) - x)).all()


def test_rms_norm() -> None:
    """Squares 9 and 16 have the mean 12.5."""
    x, weight = np.array([[3.0, 4.0]]), np.array([1.0, 2.0])
    expected = np.array([[3.0, 8.0]]) / math.sqrt(12.5 + 0.5)
    np.testing.assert_allclose(ops.rms_norm(x, weight, 0.5), expected)


def test_linear_and_its_bf16_form() -> None:
    """bf16 rounds the activation, not the result."""
    x, weight = np.array([[1 + 2.0**-10, 2.0]]), np.array([[3.0, 0.5], [1.0, 2.0**-10]])
    np.testing.assert_allclose(ops.linear(x, weight), [[4 + 3 * 2.0**-10, 1 + 3 * 2.0**-10]])
    np.testing.assert_allclose(ops.linear_bf16(x, weight), [[4.0, 1 + 2.0**-9]])


def test_swiglu() -> None:
    """Definition: gate / (1 + exp(-gate)) * up, without overflow."""
    gate, up = np.array([[0.5, -2.0, -1000.0]]), np.array([[3.0, 1.5, 1.0]])
    expected = [[1.5 / (1 + math.exp(-0.5)), -3.0 / (1 + math.exp(2.0)), 0.0]]
    np.testing.assert_allclose(ops.swiglu(gate, up), expected, atol=1e-300)


def test_rope_is_a_complex_rotation() -> None:
    """Components i and i + e/2 are real and imaginary part."""
    x, inverse = RNG.normal(size=(5, 3, 8)), ops.inverse_frequencies(8, 10000.0)
    positions = [0, 1, 7, 7, 300]
    turn = np.exp(1j * np.multiply.outer(positions, inverse))[:, None, :]
    expected = (x[..., :4] + 1j * x[..., 4:]) * turn
    y = ops.rope(x, positions, inverse)
    np.testing.assert_allclose(y[..., :4] + 1j * y[..., 4:], expected, atol=1e-12)


def test_rope_scores_depend_on_the_distance() -> None:
    """Query at 12 and key at 5 score like 107 and 100."""
    q, k = RNG.normal(size=(2, 1, 1, 10))
    inverse = ops.inverse_frequencies(10, 500.0)
    near = (ops.rope(q, [12], inverse) * ops.rope(k, [5], inverse)).sum()
    far = (ops.rope(q, [107], inverse) * ops.rope(k, [100], inverse)).sum()
    assert near == pytest.approx(far)


def test_llama3_frequencies() -> None:
    """Short wavelengths stay, long ones are divided, the middle is blended linearly in turns."""
    turns = np.array([10.0, 4.0, 2.5, 1.0, 0.1])  # original context over wavelength
    inverse = 2 * np.pi * turns / 64
    scaled = ops.llama3_frequencies(inverse, factor=8.0, low=1.0, high=4.0, context=64)
    np.testing.assert_allclose(scaled / inverse, [1, 1, 0.5 + 0.5 / 8, 1 / 8, 1 / 8])


def test_attention_rows_against_a_plain_loop() -> None:
    """Every head and row by itself: cached rows, and new rows whose bit is set."""
    n, t, h, g, e = 4, 3, 6, 2, 5
    q, new_k, new_v = (RNG.normal(size=(n, heads, e)) for heads in (h, g, g))
    cached_k, cached_v = RNG.normal(size=(2, t, g, e))
    sees = [0b0001, 0b0011, 0b0101, 0b1101]  # a tree: 1 and 2 hang on 0, 3 on 2
    result = ops.attention_rows(q, cached_k, cached_v, new_k, new_v, sees)
    for i in range(n):
        seen = [j for j in range(n) if sees[i] >> j & 1]
        for head in range(h):
            kv = head // (h // g)
            keys = np.concatenate([cached_k[:, kv], new_k[seen, kv]])
            values = np.concatenate([cached_v[:, kv], new_v[seen, kv]])
            weights = np.exp(keys @ q[i, head] / math.sqrt(e))
            expected = weights / weights.sum() @ values
            np.testing.assert_allclose(result[i, head], expected, rtol=1e-12)


def test_attention_rows_uses_all_64_bits() -> None:
    """Row 63 may see row 63 only."""
    k = RNG.normal(size=(64, 1, 2))
    none = np.zeros((0, 1, 2))
    sees = [1 << i for i in range(64)]
    np.testing.assert_allclose(ops.attention_rows(k, none, none, k, k, sees), k)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ops_keep_their_dtype(dtype: type[np.floating[Any]]) -> None:
    """float32 in, float32 out."""
    x = np.asarray(RNG.normal(size=(3, 4)), dtype=dtype)
    heads = x.reshape(3, 2, 2)
    results = [
        ops.bf16_round(x),
        ops.rms_norm(x, x[0], 1e-5),
        ops.linear_bf16(x, x),
        ops.swiglu(x, x),
        ops.rope(heads, [0, 1, 2], ops.inverse_frequencies(2, 10000.0)),
        ops.attention_rows(heads, heads, heads, heads, heads, [1, 3, 7]),
    ]
    assert [result.dtype for result in results] == [np.dtype(dtype)] * len(results)

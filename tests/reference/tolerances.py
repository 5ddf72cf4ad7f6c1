"""How far a result of the runtime may be from the reference: one table for all tests.

|actual - expected| <= abs + rel * |expected|, elementwise. The reference computes in float64 from
the same stored inputs. f32: unit roundoff 6e-8, sums in float32 in a fixed order. bf16: inputs and
result are bfloat16, sums in float32; one rounding of the result is at most 2^-9 (1.95e-3) of it,
and 4e-3 allows a neighbour of the correct rounding.
"""

from dataclasses import dataclass

import numpy as np

from .arrays import Floats


@dataclass(frozen=True)
class Tolerance:
    """Bounds of one op in one dtype."""

    abs: float
    rel: float


EXACT = Tolerance(0.0, 0.0)

TABLE: dict[str, dict[str, Tolerance]] = {
    # Copies of stored values.
    "embed": {"f32": EXACT, "bf16": EXACT},
    "move_kv": {"f32": EXACT, "bf16": EXACT},
    # A sum of up to a few thousand positive squares: errors stay relative.
    "rms_norm": {"f32": Tolerance(1e-6, 1e-5), "bf16": Tolerance(1e-6, 4e-3)},
    # Products of both signs cancel, so the bound is absolute, for sums of unit size; the reference
    # gets the same bf16 activations.
    "linear": {"f32": Tolerance(1e-5, 1e-5), "bf16": Tolerance(1e-2, 4e-3)},
    # The angle (position times frequency) is a float32 product: 1e-7 of it, which up to position
    # 500 is 5e-5 radians, times values of unit size.
    "rope": {"f32": Tolerance(1e-4, 1e-5), "bf16": Tolerance(4e-3, 4e-3)},
    # Weighted means of values of unit size; scores and their exp in float32. bf16 rounds the
    # softmax weights too, 2^-9 of a mean whose terms may cancel.
    "attention": {"f32": Tolerance(1e-5, 1e-5), "bf16": Tolerance(1e-2, 4e-3)},
    # One exp and three products, no sum.
    "swiglu": {"f32": Tolerance(1e-6, 1e-5), "bf16": Tolerance(1e-6, 4e-3)},
    # log-softmax: logits up to about 30 lose 2e-6 in float32; log-probs are never stored as bf16.
    "log_probs": {"f32": Tolerance(1e-5, 1e-5), "bf16": Tolerance(1e-5, 1e-5)},
    # A polynomial logarithm, twice, of the same float32 uniform; values in [-2.9, 22.9].
    "gumbel": {"f32": Tolerance(2e-6, 2e-6), "bf16": Tolerance(2e-6, 2e-6)},
    # Logits of a whole tiny model, standard deviation about 3, 100 positions. f32: measured 5e-5
    # between float32 and float64. bf16: activations are rounded before every matmul here and there,
    # and a float32 difference flips single roundings: measured 0.09.
    "logits": {"f32": Tolerance(2e-4, 1e-4), "bf16": Tolerance(1.5e-1, 2e-2)},
    # Token ids and counts.
    "judge": {"f32": EXACT, "bf16": EXACT},
}


def tolerance(op: str, dtype: str) -> Tolerance:
    """Bounds of `op` in `dtype` ("f32" or "bf16")."""
    return TABLE[op][dtype]


def assert_close(actual: Floats, expected: Floats, op: str, dtype: str) -> None:
    """Raise AssertionError with the worst element unless all are within the table's bounds."""
    bound = tolerance(op, dtype)
    np.testing.assert_allclose(
        np.asarray(actual, dtype=np.float64),
        np.asarray(expected, dtype=np.float64),
        rtol=bound.rel,
        atol=bound.abs,
        err_msg=f"{op} in {dtype}",
    )

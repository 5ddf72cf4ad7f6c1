"""The tolerance table: complete, and it bites."""

import numpy as np
import pytest

from .tolerances import TABLE, assert_close, tolerance


def test_every_op_has_both_dtypes() -> None:
    """bf16 is never tighter than f32."""
    for op, row in TABLE.items():
        assert row.keys() == {"f32", "bf16"}, op
        assert row["bf16"].abs >= row["f32"].abs
        assert row["bf16"].rel >= row["f32"].rel


def test_assert_close_is_elementwise() -> None:
    """One element outside is enough, and the message names the op."""
    expected = np.array([1.0, 100.0])
    bound = tolerance("linear", "f32")
    assert_close(expected + 0.9 * (bound.abs + bound.rel * expected), expected, "linear", "f32")
    outside = np.array([1.1 * (bound.abs + bound.rel), 0.0])
    with pytest.raises(AssertionError, match="linear in f32"):
        assert_close(expected + outside, expected, "linear", "f32")


def test_unknown_names_are_errors() -> None:
    """No default tolerance."""
    with pytest.raises(KeyError):
        tolerance("conv", "f32")

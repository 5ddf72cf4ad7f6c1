"""RMSNorm against the reference."""

import numpy as np
import pytest
from op_arrays import empty_rows, padded_rows, values
from reference.ops import rms_norm
from reference.tolerances import assert_close
from specrt._core import ops


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("cols", [1, 2, 15, 16, 17, 100, 768])
def test_rms_norm(runner: ops.Runner, cols: int, dtype: str) -> None:
    """x and gain are f32; the result rounds once."""
    rng = np.random.default_rng(cols)
    x = rng.standard_normal((5, cols)).astype(np.float32) * 3
    gain = rng.standard_normal(cols).astype(np.float32)
    step = ops.Step(6)
    step.add(0, 5)
    out = empty_rows(6, cols, dtype)
    rows = empty_rows(6, cols, "f32")
    rows[:5] = x
    runner.rms_norm(step, rows, gain, 1e-5, out)
    expected = rms_norm(x.astype(np.float64), gain, 1e-5)
    assert_close(values(out[:5], dtype), expected, "rms_norm", dtype)
    assert np.isnan(values(out[5], dtype)).all()


def test_row_of_zeros(runner: ops.Runner) -> None:
    """Eps keeps a row of zeros finite."""
    step = ops.Step(1)
    step.add(0, 1)
    out = empty_rows(1, 8, "f32")
    gain = np.ones(8, dtype=np.float32)
    runner.rms_norm(step, padded_rows(np.zeros((1, 8)), "f32"), gain, 1e-6, out)
    assert (out == 0).all()

"""Embed against the reference, from both layouts."""

import numpy as np
import pytest
from backends import BACKEND
from op_arrays import DTYPES, empty_rows, stored, values
from op_weights import LAYOUT, pack
from reference.ops import embed
from reference.tolerances import assert_close
from specrt._core import ops


def packed_table(table: np.ndarray, layout: str, dtype: str) -> np.ndarray:
    """The table as an engine holds it."""
    if layout == LAYOUT:
        return pack(table, dtype)
    return stored(table, dtype).reshape(-1).copy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["row_major", LAYOUT])
@pytest.mark.parametrize("cols", [1, 7, 64])
def test_embed(runner: ops.Runner, cols: int, layout: str, dtype: str) -> None:
    """Rows read their tokens at base + i, or at base + depth in a tree."""
    table = np.random.default_rng(cols).standard_normal((37, cols))
    step = ops.Step(4)
    step.add(2, 3, tokens=[0, 0, 36, 15, 16])
    step.add(0, 2, tokens=[5, 9], depth=[0, 0])
    out = empty_rows(8, cols, "f32")
    runner.embed(step, packed_table(table, layout, dtype), 37, cols, layout, out)
    expected = embed(values(stored(table, dtype), dtype), [36, 15, 16, 5, 5])
    assert_close(out[[0, 1, 2, 4, 5]], expected, "embed", dtype)
    assert np.isnan(out[[3, 6, 7]]).all()


def test_last_row_only(runner: ops.Runner) -> None:
    """With select = last only the last existing row of every sequence is computed."""
    table = np.arange(10.0)[:, None]
    step = ops.Step(4, "last")
    step.add(0, 3, tokens=[1, 2, 3])
    step.add(0, 0, tokens=[])
    out = empty_rows(8, 1, "f32")
    runner.embed(step, packed_table(table, "row_major", DTYPES[0]), 10, 1, "row_major", out)
    assert out[2, 0] == 3
    assert np.isnan(np.delete(out[:, 0], 2)).all()


@pytest.mark.parametrize("token", [-1, 10])
def test_tokens_beyond_the_table(runner: ops.Runner, token: int) -> None:
    """Never a read outside of the table: an error, or NaN where kernels cannot raise one."""
    step = ops.Step(1)
    step.add(0, 1, tokens=[token])
    table = packed_table(np.ones((10, 1)), "row_major", DTYPES[0])
    out = np.zeros_like(empty_rows(1, 16, "f32"))[:, :1]
    if BACKEND == "cuda":
        runner.embed(step, table, 10, 1, "row_major", out)
        assert np.isnan(out[0, 0])
        return
    with pytest.raises(RuntimeError, match="embed: token"):
        runner.embed(step, table, 10, 1, "row_major", out)

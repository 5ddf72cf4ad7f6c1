"""Linear against the reference: layouts, odd shapes, epilogues."""

import numpy as np
import pytest
from backends import by_backend
from op_arrays import DTYPES, bits, empty_rows, padded_rows, stored, values
from op_weights import GateUp, pack
from reference.ops import linear, swiglu
from reference.tolerances import assert_close
from specrt._core import ops

SHAPES = [(1, 1), (15, 2), (16, 16), (17, 31), (33, 64), (160, 65), (256, 768)]
FFNS = by_backend(cpu=[16, 40, 129], cuda=[16, 40, 136])  # CUDA pairs whole eights


def case(n: int, m: int, k: int, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs x (n, k) and weight (m, k) as stored, and their product."""
    rng = np.random.default_rng(n * 10007 + m * 101 + k)
    x = rng.standard_normal((n, k))
    weight = rng.standard_normal((m, k)) / np.sqrt(k)
    rounded = values(stored(x, dtype), dtype), values(stored(weight, dtype), dtype)
    return x, weight, linear(*rounded)


def step_of(rows: int, capacity: int | None = None) -> ops.Step:
    """One sequence with `rows` existing rows."""
    step = ops.Step(capacity or rows)
    step.add(0, rows)
    return step


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "k"), SHAPES)
@pytest.mark.parametrize("n", [*range(1, 14), 17, 64])
def test_store(runner: ops.Runner, n: int, m: int, k: int, dtype: str) -> None:
    """out = x w^T in f32 for every tile shape."""
    x, weight, expected = case(n, m, k, dtype)
    out = empty_rows(n, m, "f32")
    packed = pack(weight, dtype)
    runner.linear(step_of(n), padded_rows(x, dtype), packed, m, k, "store", out)
    assert_close(out, expected, "linear", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_store_bf16(runner: ops.Runner, dtype: str) -> None:
    """out in bf16 is the f32 result rounded once."""
    x, weight, _ = case(6, 50, 70, dtype)
    packed = pack(weight, dtype)
    wide, narrow = empty_rows(6, 50, "f32"), empty_rows(6, 50, "bf16")
    for out in (wide, narrow):
        runner.linear(step_of(6), padded_rows(x, dtype), packed, 50, 70, "store", out)
    np.testing.assert_array_equal(narrow, stored(wide, "bf16"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_add(runner: ops.Runner, dtype: str) -> None:
    """out += x w^T, exactly the stored result added in f32."""
    x, weight, _ = case(5, 40, 48, dtype)
    packed = pack(weight, dtype)
    before = np.random.default_rng(1).standard_normal((5, 40)).astype(np.float32)
    product, out = empty_rows(5, 40, "f32"), padded_rows(before, "f32")
    runner.linear(step_of(5), padded_rows(x, dtype), packed, 40, 48, "store", product)
    runner.linear(step_of(5), padded_rows(x, dtype), packed, 40, 48, "add", out)
    np.testing.assert_array_equal(bits(out), bits(before + product))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "k"), SHAPES)
@pytest.mark.parametrize("n", [1, 5])
def test_bias(runner: ops.Runner, n: int, m: int, k: int, dtype: str) -> None:
    """The bias is added in f32 to the sum, before the epilogue; m need not fill its last panel."""
    x, weight, expected = case(n, m, k, dtype)
    packed, x = pack(weight, dtype), padded_rows(x, dtype)
    bias = np.random.default_rng(2).standard_normal(m).astype(np.float32)
    plain, out = empty_rows(n, m, "f32"), empty_rows(n, m, "f32")
    runner.linear(step_of(n), x, packed, m, k, "store", plain)
    runner.linear(step_of(n), x, packed, m, k, "store", out, bias)
    np.testing.assert_array_equal(bits(out), bits(plain + bias))
    assert_close(out, expected + bias, "linear", dtype)
    added = padded_rows(np.ones((n, m)), "f32")
    runner.linear(step_of(n), x, packed, m, k, "add", added, bias)
    np.testing.assert_array_equal(bits(added), bits(out + np.float32(1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("f", FFNS)
@pytest.mark.parametrize("n", [1, 4, 7, 16])
def test_swiglu(runner: ops.Runner, n: int, f: int, dtype: str) -> None:
    """Gate meets up; f need not fill its last panel."""
    rng = np.random.default_rng(f)
    gate, up = rng.standard_normal((2, f, 32)) / 3
    x = rng.standard_normal((n, 32))
    weight, out = GateUp(gate, up, dtype), empty_rows(n, f, dtype)
    runner.linear(step_of(n), padded_rows(x, dtype), weight.packed, weight.rows, 32, "swiglu", out,
                  pair_stride=weight.pair_stride)  # fmt: skip
    x, gate, up = (values(stored(v, dtype), dtype) for v in (x, gate, up))
    # The products before the activation differ by their own tolerance.
    assert_close(values(out, dtype), swiglu(linear(x, gate), linear(x, up)), "linear", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_of_extremes(runner: ops.Runner, dtype: str) -> None:
    """Silu(x) * 1 from -200 to 200."""
    gates = np.concatenate([np.linspace(-200, 200, 31), [0.0]])
    gate, up = np.zeros((2, 32, 2))
    gate[:, 0], up[:, 1] = gates, 1
    weight, out = GateUp(gate, up, dtype), empty_rows(1, 32, dtype)
    runner.linear(step_of(1), padded_rows(np.ones((1, 2)), dtype), weight.packed, weight.rows, 2,
                  "swiglu", out, pair_stride=weight.pair_stride)  # fmt: skip
    gates = values(stored(gates, dtype), dtype)
    assert_close(values(out, dtype)[0], swiglu(gates, np.ones(32)), "swiglu", dtype)


def test_refuses_wrong_shapes(runner: ops.Runner) -> None:
    """The error names the op, and is raised at the call."""
    x, weight, _ = case(2, 16, 16, DTYPES[0])
    with pytest.raises(RuntimeError, match="linear: out must have 16 columns"):
        runner.linear(step_of(2), padded_rows(x, DTYPES[0]), pack(weight, DTYPES[0]), 16, 16,
                      "store", empty_rows(2, 17, DTYPES[0]))  # fmt: skip

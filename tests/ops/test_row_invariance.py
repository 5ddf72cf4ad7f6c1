"""The result of a row depends on the row alone, bit for bit.

Not on the number of rows, its place among them, the capacity, the segments, the number of threads,
or what the other rows hold (NaN here).
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from backends import by_backend
from op_arrays import DTYPES, UNSEEN, Cache, bits, empty_rows, padded_rows, stored
from op_weights import GateUp, pack
from specrt._core import ops

THREADS = by_backend(cpu=(1, 2, 3, 4), cuda=(1,))
MAX_ROWS = 64
# Every count with its first and last place, and every place of the largest.
PLACES = sorted({(n, at) for n in range(1, MAX_ROWS + 1) for at in (0, n // 2, n - 1)}
                | {(MAX_ROWS, at) for at in range(MAX_ROWS)})  # fmt: skip
RunnerOf = Callable[[str, int], ops.Runner]


def runs(runner_of: RunnerOf, device: str) -> Iterator[tuple[ops.Runner, int, int]]:
    """All (runner, rows, place): threads take turns."""
    for i, (rows, at) in enumerate(PLACES):
        yield runner_of(device, THREADS[i % len(THREADS)]), rows, at


def alone(rows: int, at: int, row: np.ndarray, dtype: str) -> np.ndarray:
    """Rows of NaN but for `row` at place `at`."""
    out = empty_rows(rows, len(row), dtype)
    out[at] = row
    return out


def one_segment(rows: int) -> ops.Step:
    """`rows` rows of one sequence."""
    step = ops.Step(rows)
    step.add(0, rows)
    return step


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epilogue", ["store", "add", "swiglu"])
@pytest.mark.parametrize(("m", "k"), [(160, 33), (288, 768)])
def test_linear(
    runner_of: RunnerOf, device: str, m: int, k: int, epilogue: str, dtype: str
) -> None:
    """All tiles, and the last odd column next to garbage."""
    rng = np.random.default_rng(k)
    bias = rng.standard_normal(m).astype(np.float32)
    matrix = rng.standard_normal((m, k))
    weight, pairs = pack(matrix, dtype), 8
    if epilogue == "swiglu":
        both = GateUp(matrix[: m // 2], matrix[m // 2 :], dtype)
        weight, pairs = both.packed, both.pair_stride
    row = stored(rng.standard_normal(k), dtype)
    cols, kind = (m // 2, dtype) if epilogue == "swiglu" else (m, "f32")

    def result(runner: ops.Runner, rows: int, at: int) -> np.ndarray:
        out = empty_rows(rows, cols, kind)
        out[at] = 0 if kind == "bf16" else 0.5
        x = alone(rows, at, row, dtype)
        runner.linear(one_segment(rows), x, weight, m, k, epilogue, out, bias, pairs)
        return bits(out[at])

    expected = result(runner_of(device, 1), 1, 0)
    for runner, rows, at in runs(runner_of, device):
        np.testing.assert_array_equal(result(runner, rows, at), expected, f"{rows} rows, {at}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(runner_of: RunnerOf, device: str, dtype: str) -> None:
    """Rows are spread over threads."""
    rng = np.random.default_rng(2)
    gain = rng.standard_normal(777).astype(np.float32)
    row = rng.standard_normal(777).astype(np.float32)

    def result(runner: ops.Runner, rows: int, at: int) -> np.ndarray:
        out = empty_rows(rows, 777, dtype)
        runner.rms_norm(one_segment(rows), alone(rows, at, row, "f32"), gain, 1e-5, out)
        return bits(out[at])

    expected = result(runner_of(device, 1), 1, 0)
    for runner, rows, at in runs(runner_of, device):
        np.testing.assert_array_equal(result(runner, rows, at), expected)


class AttentionCase:
    """A row at position `length - 1` whose `new` last positions are rows of the same step."""

    heads, kv, length, slots = 6, 2, 75, 160
    e = by_backend(cpu=32, cuda=64)

    def __init__(self, dtype: str, window: int = 0) -> None:
        self.window = window
        rng = np.random.default_rng(4)
        self.dtype = dtype
        self.cache = Cache(self.kv, self.e, self.slots, dtype)
        shape = (self.length, self.kv, self.e)
        keys, values = rng.standard_normal(shape), rng.standard_normal(shape)
        self.cache.fill(range(self.length), keys, values)
        behind = np.full((self.slots - self.length, self.kv, self.e), UNSEEN)
        self.cache.fill(range(self.length, self.slots), behind, behind)
        self.query = stored(rng.standard_normal(self.heads * self.e), dtype)

    def result(self, runner: ops.Runner, step: ops.Step, rows: int, at: int) -> np.ndarray:
        """Attention of the row at place `at`; other rows' queries are NaN."""
        out = empty_rows(rows, self.heads * self.e, self.dtype)
        q = alone(rows, at, self.query, self.dtype)
        shape = self.heads, self.kv, self.e, self.slots
        runner.attention(step, q, *shape, 0.2, out, self.window)
        return bits(out[at])

    def chain(self, runner: ops.Runner, rows: int, at: int) -> np.ndarray:
        """The row is row `at` of a step whose base is such that its position stays."""
        step = ops.Step(rows)
        step.add(self.length - 1 - at, rows, kv=self.cache.bytes)
        return self.result(runner, step, rows, at)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 1, 5, 30])
def test_attention(runner_of: RunnerOf, device: str, window: int, dtype: str) -> None:
    """The prefix may be cached or rows of the same step; nothing behind the row counts."""
    case = AttentionCase(dtype, window)
    expected = case.chain(runner_of(device, 1), 1, 0)
    for runner, rows, at in runs(runner_of, device):
        result = case.chain(runner, rows, at)
        np.testing.assert_array_equal(result, expected, f"{rows} rows, {at}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_among_segments(runner_of: RunnerOf, device: str, dtype: str) -> None:
    """Segments, their capacity and select do not matter."""
    case = AttentionCase(dtype)
    expected = case.chain(runner_of(device, 1), 1, 0)
    other = Cache(case.kv, case.e, case.slots, dtype)
    for segment in range(4):
        for capacity, rows, select in [(5, 1, "all"), (16, 16, "all"), (16, 7, "last")]:
            step = ops.Step(capacity, select)
            for s in range(4):
                mine = s == segment
                base = case.length - rows if mine else 3
                step.add(base, rows, kv=(case.cache if mine else other).bytes)
            at = segment * capacity + rows - 1
            result = case.result(runner_of(device, 2), step, 4 * capacity, at)
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_among_segments(runner_of: RunnerOf, device: str, dtype: str) -> None:
    """Rows that do not exist are neither read nor written."""
    rng = np.random.default_rng(5)
    weight = pack(rng.standard_normal((48, 40)), dtype)
    x = padded_rows(rng.standard_normal((64, 40)), dtype)
    single = empty_rows(1, 48, "f32")
    for capacity, counts in [(8, [3, 0, 8, 1]), (16, [16, 2, 16, 5])]:
        out = empty_rows(64, 48, "f32")
        before = bits(out.copy())
        step = ops.Step(capacity)
        for count in counts:
            step.add(9, count)
        runner_of(device, 3).linear(step, x, weight, 48, 40, "store", out)
        for row in range(64):
            segment, i = divmod(row, capacity)
            if segment < len(counts) and i < counts[segment]:
                runner_of(device, 1).linear(
                    one_segment(1), x[row : row + 1], weight, 48, 40, "store", single
                )
                np.testing.assert_array_equal(bits(out[row]), bits(single[0]))
            else:
                np.testing.assert_array_equal(bits(out[row]), before[row])

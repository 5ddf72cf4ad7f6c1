"""Attention against the reference: prefixes, chains, trees, several sequences."""

import numpy as np
import pytest
from backends import by_backend
from op_arrays import DTYPES, UNSEEN, Cache, bits, empty_rows, stored, values
from reference.ops import attention_rows
from reference.tolerances import assert_close
from specrt._core import ops

# heads, kv heads, head size
HEADS = by_backend(
    cpu=[(1, 1, 2), (4, 4, 16), (6, 2, 64), (12, 4, 64), (8, 1, 24), (5, 5, 80), (4, 2, 128)],
    cuda=[(1, 1, 64), (6, 2, 64), (8, 1, 64), (2, 2, 96), (4, 2, 128)],
)
WINDOW_HEADS = by_backend(
    cpu=[(12, 4, 64), (8, 1, 24), (5, 5, 80)], cuda=[(6, 2, 64), (2, 1, 96), (3, 3, 128)]
)
SMALL = by_backend(cpu=16, cuda=64)  # a head size
TREE = [0b1, 0b11, 0b101, 0b1011, 0b10011, 0b100101, 0b1001011]


class Case:
    """A cache with `base` entries and n new rows in it, and their queries."""

    def __init__(self, n: int, base: int, heads: int, kv: int, e: int, dtype: str) -> None:
        rng = np.random.default_rng(n * 1000 + base)
        self.n, self.base, self.heads, self.kv, self.e, self.dtype = n, base, heads, kv, e, dtype
        self.slots = -(-(base + n) // 16) * 16 + 16
        self.q = rng.standard_normal((n, heads, e)) * 2
        self.k = rng.standard_normal((base + n, kv, e))
        self.v = rng.standard_normal((base + n, kv, e))
        self.cache = Cache(kv, e, self.slots, dtype)
        self.cache.fill(range(base + n), self.k, self.v)

    def run(self, runner: ops.Runner, step: ops.Step, rows: int, window: int = 0) -> np.ndarray:
        """Attention output (rows, h, e) as stored; queries of missing rows are NaN."""
        q = empty_rows(rows, self.heads * self.e, self.dtype)
        q[: self.n] = stored(self.q, self.dtype).reshape(self.n, -1)
        out = empty_rows(rows, self.heads * self.e, self.dtype)
        scale = 1 / np.sqrt(self.e)
        runner.attention(step, q, self.heads, self.kv, self.e, self.slots, scale, out, window)
        return out.reshape(rows, self.heads, self.e)

    def expected(self, sees: list[int], window: int = 0) -> np.ndarray:
        """The reference on the stored inputs."""
        q, k, v = (values(stored(x, self.dtype), self.dtype) for x in (self.q, self.k, self.v))
        b = self.base
        return attention_rows(q, k[:b], v[:b], k[b:], v[b:], sees, window)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv", "e"), HEADS)
@pytest.mark.parametrize(("n", "base"), [(1, 0), (1, 15), (1, 16), (3, 30), (8, 100), (64, 7)])
def test_chain(
    runner: ops.Runner, n: int, base: int, heads: int, kv: int, e: int, dtype: str
) -> None:
    """Row i sees the prefix and rows 0..i."""
    case = Case(n, base, heads, kv, e, dtype)
    step = ops.Step(n)
    step.add(base, n, kv=case.cache.bytes)
    expected = case.expected([(2 << i) - 1 for i in range(n)])
    assert_close(values(case.run(runner, step, n), dtype), expected, "attention", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", [0, 5, 64])
def test_tree(runner: ops.Runner, base: int, dtype: str) -> None:
    """Row i sees the prefix and its ancestors."""
    case = Case(len(TREE), base, 6, 2, 64, dtype)
    step = ops.Step(len(TREE))
    step.add(base, len(TREE), kv=case.cache.bytes, sees=TREE)
    out = values(case.run(runner, step, len(TREE)), dtype)
    assert_close(out, case.expected(TREE), "attention", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", [0, 3, 14, 15, 33])
def test_tree_equals_chain(runner: ops.Runner, base: int, dtype: str) -> None:
    """A tree row is bit for bit the last row of its path fed as a chain."""
    tree = Case(len(TREE), base, 6, 2, 64, dtype)
    step = ops.Step(len(TREE))
    step.add(base, len(TREE), kv=tree.cache.bytes, sees=TREE)
    out = tree.run(runner, step, len(TREE))
    for row, mask in enumerate(TREE):
        path = [j for j in range(len(TREE)) if mask >> j & 1]
        chain = Case(len(path), base, 6, 2, 64, dtype)
        picked = [*range(base), *(base + j for j in path)]
        chain.q = tree.q[path]
        chain.cache.fill(range(base + len(path)), tree.k[picked], tree.v[picked])
        chain_step = ops.Step(len(path))
        chain_step.add(base, len(path), kv=chain.cache.bytes)
        last = chain.run(runner, chain_step, len(path))[-1]
        np.testing.assert_array_equal(bits(out[row]), bits(last))


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_sequences(runner: ops.Runner, dtype: str) -> None:
    """Each segment has its own cache, base and count; rows that do not exist stay untouched."""
    e = SMALL
    first, second = Case(2, 40, 4, 2, e, dtype), Case(3, 9, 4, 2, e, dtype)
    slots = max(first.slots, second.slots)
    caches = [Cache(2, e, slots, dtype) for _ in range(2)]
    step = ops.Step(4)
    q = empty_rows(8, 4 * e, dtype)
    for s, (case, cache) in enumerate(zip((first, second), caches, strict=True)):
        cache.fill(range(case.base + case.n), case.k, case.v)
        step.add(case.base, case.n, kv=cache.bytes)
        q[4 * s : 4 * s + case.n] = stored(case.q, dtype).reshape(case.n, -1)
    out = empty_rows(8, 4 * e, dtype)
    untouched = bits(out.copy())
    runner.attention(step, q, 4, 2, e, slots, 1 / np.sqrt(e), out)
    for s, case in enumerate((first, second)):
        expected = case.expected([(2 << i) - 1 for i in range(case.n)])
        rows = values(out[4 * s : 4 * s + case.n], dtype)
        assert_close(rows.reshape(expected.shape), expected, "attention", dtype)
    missing = [2, 3, 7]
    np.testing.assert_array_equal(bits(out)[missing], untouched[missing])


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_scores(runner: ops.Runner, dtype: str) -> None:
    """Softmax subtracts the maximum: scores of several thousand stay finite."""
    case = Case(2, 20, 2, 1, SMALL, dtype)
    case.q *= 1000
    step = ops.Step(2)
    step.add(20, 2, kv=case.cache.bytes)
    out = values(case.run(runner, step, 2), dtype)
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= np.abs(values(stored(case.v, dtype), dtype)).max() * 1.0001


@pytest.mark.cpu_only("kernels cannot raise; the host's limit keeps slots within the cache")
def test_refuses_slots_beyond_the_cache(runner: ops.Runner) -> None:
    """An error of the worker arrives with the event; the stream works again afterwards."""
    case = Case(2, 20, 2, 1, SMALL, DTYPES[0])
    step = ops.Step(2)
    step.add(case.slots - 1, 2, kv=case.cache.bytes)
    with pytest.raises(RuntimeError, match="attention: slot"):
        case.run(runner, step, 2)
    step = ops.Step(2)
    step.add(20, 2, kv=case.cache.bytes)
    assert np.isfinite(case.run(runner, step, 2)).all()


def poison(case: Case, positions: range) -> None:
    """Keys and values of `positions` become what no row may see."""
    unseen = np.full((len(positions), case.kv, case.e), UNSEEN)
    case.cache.fill(positions, unseen, unseen)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv", "e"), WINDOW_HEADS)
@pytest.mark.parametrize(("n", "base"), [(1, 0), (1, 47), (3, 30), (8, 100), (64, 7), (64, 0)])
@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 40, 1000])
def test_window(
    runner: ops.Runner, window: int, n: int, base: int, heads: int, kv: int, e: int, dtype: str
) -> None:
    """Row i sees the last `window` positions; what lies before all windows does not matter."""
    case = Case(n, base, heads, kv, e, dtype)
    expected = case.expected([(2 << i) - 1 for i in range(n)], window)
    poison(case, range(max(0, base + 1 - window)))
    step = ops.Step(n)
    step.add(base, n, kv=case.cache.bytes)
    assert_close(values(case.run(runner, step, n, window), dtype), expected, "attention", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [1, 2, 3, 9, 20])
def test_window_of_a_row_is_its_own(runner: ops.Runner, window: int, dtype: str) -> None:
    """What only rows before it have in their window does not reach a row, bit for bit."""
    n, base = 40, 21
    clean, case = Case(n, base, 6, 2, 64, dtype), Case(n, base, 6, 2, 64, dtype)
    until = base + n // 2
    poison(case, range(until))
    outs = []
    for each in (clean, case):
        step = ops.Step(n)
        step.add(base, n, kv=each.cache.bytes)
        outs.append(bits(each.run(runner, step, n, window)))
    first = until + window - 1 - base  # the first row whose window is clean
    np.testing.assert_array_equal(outs[1][first:], outs[0][first:])
    assert (outs[1][:first] != outs[0][:first]).any(axis=(1, 2)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", [0, 3, 14, 33])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 7, 17, 100])
def test_tree_with_a_window_equals_chain(
    runner: ops.Runner, window: int, base: int, dtype: str
) -> None:
    """The window counts the positions of a row's own path."""
    tree = Case(len(TREE), base, 6, 2, 64, dtype)
    step = ops.Step(len(TREE))
    step.add(base, len(TREE), kv=tree.cache.bytes, sees=TREE)
    out = tree.run(runner, step, len(TREE), window)
    assert_close(values(out, dtype), tree.expected(TREE, window), "attention", dtype)
    for row, mask in enumerate(TREE):
        path = [j for j in range(len(TREE)) if mask >> j & 1]
        chain = Case(len(path), base, 6, 2, 64, dtype)
        chain.q = tree.q[path]
        picked = [*range(base), *(base + j for j in path)]
        chain.cache.fill(range(base + len(path)), tree.k[picked], tree.v[picked])
        chain_step = ops.Step(len(path))
        chain_step.add(base, len(path), kv=chain.cache.bytes)
        last = chain.run(runner, chain_step, len(path), window)[-1]
        np.testing.assert_array_equal(bits(out[row]), bits(last))


def test_refuses_a_negative_window(runner: ops.Runner) -> None:
    """Zero is no window."""
    case = Case(1, 4, 2, 1, SMALL, DTYPES[0])
    step = ops.Step(1)
    step.add(4, 1, kv=case.cache.bytes)
    with pytest.raises(RuntimeError, match="attention: a window of -1"):
        case.run(runner, step, 1, -1)

"""Rotary embedding and the KV cache that rope_kv writes."""

import numpy as np
import pytest
from backends import by_backend
from op_arrays import DTYPES, Cache, bits, empty_rows, values
from reference.ops import inverse_frequencies, rms_norm, rope
from reference.tolerances import assert_close
from specrt._core import ops

# heads, kv heads, head size
HEADS = by_backend(
    cpu=[(1, 1, 2), (4, 2, 16), (12, 4, 64), (3, 1, 80)],
    cuda=[(1, 1, 64), (4, 2, 96), (3, 1, 128)],
)


def angles_of(runner: ops.Runner, step: ops.Step, rows: int, e: int) -> np.ndarray:
    """Cosines and sines of the rows of a step."""
    out = empty_rows(rows, e, "f32")
    frequencies = inverse_frequencies(e, 10000.0).astype(np.float32)
    runner.rope_angles(step, frequencies, 1.0, out)
    return out


@pytest.mark.parametrize("depth", [[], [0, 1, 1, 2]])
def test_angles(runner: ops.Runner, depth: list[int]) -> None:
    """Row i stands at base + i, or at base + depth in a tree."""
    step = ops.Step(4)
    step.add(400, 4, depth=depth)
    out = angles_of(runner, step, 4, 64).astype(np.float64)
    positions = 400.0 + np.array(depth or range(4))
    angles = positions[:, None] * inverse_frequencies(64, 10000.0)
    assert_close(out, np.concatenate([np.cos(angles), np.sin(angles)], axis=1), "rope", "f32")


def test_angles_scale(runner: ops.Runner) -> None:
    """The attention factor of scaled rotary embeddings multiplies both."""
    step = ops.Step(1)
    step.add(0, 1)
    out = empty_rows(1, 2, "f32")
    runner.rope_angles(step, np.ones(1, dtype=np.float32), 1.5, out)
    np.testing.assert_array_equal(out[0], [1.5, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv", "e"), HEADS)
@pytest.mark.parametrize("base", [0, 14])
def test_rope_kv(runner: ops.Runner, base: int, heads: int, kv: int, e: int, dtype: str) -> None:
    """Queries are rotated, keys rotated into their blocks, values copied; nothing else changes."""
    n, slots = 4, 32
    x = np.random.default_rng(e).standard_normal((n, heads + 2 * kv, e)).astype(np.float32)
    cache = Cache(kv, e, slots, dtype)
    step = ops.Step(n + 1)
    step.add(base, n, kv=cache.bytes)
    angles = angles_of(runner, step, n + 1, e)
    qkv = empty_rows(n + 1, (heads + 2 * kv) * e, "f32")
    qkv[:n] = x.reshape(n, -1)
    q = empty_rows(n + 1, heads * e, dtype)
    untouched = bits(cache.keys()).copy(), bits(cache.values()).copy()
    runner.rope_kv(step, qkv, angles, heads, kv, e, slots, q)

    positions = list(range(base, base + n))
    rotated = rope(x[:, : heads + kv].astype(np.float64), positions, inverse_frequencies(e, 1e4))
    assert_close(values(q[:n], dtype).reshape(n, heads, e), rotated[:, :heads], "rope", dtype)
    assert np.isnan(values(q[n], dtype)).all()
    keys = values(cache.keys()[:, positions], dtype).transpose(1, 0, 2)
    assert_close(keys, rotated[:, heads:], "rope", dtype)
    stored_values = values(cache.values()[:, positions], dtype).transpose(1, 0, 2)
    assert_close(stored_values, x[:, heads + kv :], "rope", dtype)
    others = np.delete(np.arange(slots), positions)
    for now, before in zip((cache.keys(), cache.values()), untouched, strict=True):
        np.testing.assert_array_equal(bits(now)[:, others], before[:, others])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv", "e"), HEADS)
@pytest.mark.parametrize("normed", ["q", "k", "qk"])
def test_norm_of_heads(
    runner: ops.Runner, normed: str, heads: int, kv: int, e: int, dtype: str
) -> None:
    """With gains, heads of queries or keys are normalised before they are rotated; values never."""
    n, base, slots, eps = 3, 5, 16, 1e-3
    rng = np.random.default_rng(e)
    x = (rng.standard_normal((n, heads + 2 * kv, e)) * 3).astype(np.float32)
    gains = {name: 1 + 0.2 * rng.standard_normal(e).astype(np.float32) for name in normed}
    cache = Cache(kv, e, slots, dtype)
    step = ops.Step(n)
    step.add(base, n, kv=cache.bytes)
    qkv, q = empty_rows(n, (heads + 2 * kv) * e, "f32"), empty_rows(n, heads * e, dtype)
    qkv[:] = x.reshape(n, -1)
    angles = angles_of(runner, step, n, e)
    given = {f"{name}_gain": gain for name, gain in gains.items()}
    runner.rope_kv(step, qkv, angles, heads, kv, e, slots, q, eps=eps, **given)

    wide, inverse = x.astype(np.float64), inverse_frequencies(e, 1e4)
    parts = {"q": wide[:, :heads], "k": wide[:, heads : heads + kv]}
    for name, gain in gains.items():
        parts[name] = rms_norm(parts[name], gain.astype(np.float64), eps)
    positions = list(range(base, base + n))
    queries = values(q, dtype).reshape(n, heads, e)
    keys = values(cache.keys()[:, positions], dtype).transpose(1, 0, 2)
    for actual, name in ((queries, "q"), (keys, "k")):
        assert_close(actual, rope(parts[name], positions, inverse), "rope", dtype)
    stored_values = values(cache.values()[:, positions], dtype).transpose(1, 0, 2)
    assert_close(stored_values, wide[:, heads + kv :], "rope", dtype)

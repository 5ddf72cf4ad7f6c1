"""Arrays for single ops: padded rows, KV caches, bf16 as uint16 bit patterns."""

from collections.abc import Sequence

import numpy as np
from backends import BACKEND, by_backend
from numpy.typing import NDArray
from reference.ops import bf16_bits, bf16_values

# Of weights and caches.
DTYPES = by_backend(cpu=("f32", "bf16"), cuda=("bf16",))
# What a row must not see in its cache. CUDA multiplies it by a zero, so it is finite there.
UNSEEN = by_backend(cpu=np.nan, cuda=1e30)
LANES = 16
NAN_BITS = {"f32": 0x7FC0_1234, "bf16": 0x7FC1}
NUMPY_TYPES = {"f32": np.float32, "bf16": np.uint16}


def stored(x: NDArray[np.floating], dtype: str) -> NDArray:
    """x as float32, or as the bits of bf16."""
    x = np.asarray(x, dtype=np.float32)
    return x if dtype == "f32" else bf16_bits(x).astype(np.uint16)


def values(x: NDArray, dtype: str) -> NDArray[np.float64]:
    """What stored numbers stand for."""
    return (x if dtype == "f32" else bf16_values(x)).astype(np.float64)


def empty_rows(rows: int, cols: int, dtype: str) -> NDArray:
    """Rows (rows, cols) of NaN with a stride of whole 64-byte lines; the padding is NaN too."""
    size = 4 if dtype == "f32" else 2
    stride = -(-cols * size // 64) * 64 // size
    kind = np.uint32 if dtype == "f32" else np.uint16
    return np.full((rows, stride), NAN_BITS[dtype], kind).view(NUMPY_TYPES[dtype])[:, :cols]


def padded_rows(x: NDArray[np.floating], dtype: str) -> NDArray:
    """x (n, cols) as rows for an op."""
    out = empty_rows(*x.shape, dtype)
    out[:] = stored(x, dtype)
    return out


class Cache:
    """One layer's KV cache of one sequence, as bytes for the op and as arrays for the test.

    Keys lie in blocks of 16 slots on a CPU, [g][block][e pair][16 slots][2], and like the values on
    CUDA, [g][slot][e].
    """

    def __init__(self, kv_heads: int, head_dim: int, slots: int, dtype: str) -> None:
        """All slots hold NaN."""
        self.shape = (kv_heads, slots, head_dim)
        self.dtype = dtype
        self.numbers = empty_rows(1, 2 * kv_heads * slots * head_dim, dtype).reshape(-1).copy()

    @property
    def bytes(self) -> NDArray[np.uint8]:
        """The memory."""
        return self.numbers.view(np.uint8)

    def keys(self) -> NDArray:
        """Stored keys (g, slots, e), a copy."""
        g, slots, e = self.shape
        flat = self.numbers[: g * slots * e]
        if BACKEND == "cuda":
            return flat.reshape(g, slots, e).copy()
        pair = 1 if self.dtype == "f32" else 2
        blocks = flat.reshape(g, slots // LANES, e // pair, LANES, pair)
        return blocks.transpose(0, 1, 3, 2, 4).reshape(g, slots, e)

    def values(self) -> NDArray:
        """Stored values (g, slots, e), a view."""
        g, slots, e = self.shape
        return self.numbers[g * slots * e :].reshape(g, slots, e)

    def fill(self, slots: Sequence[int], keys: NDArray, vals: NDArray) -> None:
        """Put keys and values (len(slots), g, e) into slots."""
        g, count, e = self.shape
        stored_keys = self.keys()
        stored_keys[:, slots] = stored(keys, self.dtype).transpose(1, 0, 2)
        self.values()[:, slots] = stored(vals, self.dtype).transpose(1, 0, 2)
        if BACKEND == "cpu":
            pair = 1 if self.dtype == "f32" else 2
            blocks = stored_keys.reshape(g, count // LANES, LANES, e // pair, pair)
            stored_keys = blocks.transpose(0, 1, 3, 2, 4)
        self.numbers[: g * count * e] = stored_keys.reshape(-1)


def bits(x: NDArray) -> NDArray:
    """The bit patterns of x, to compare exactly and with NaN."""
    x = np.ascontiguousarray(x)
    return x.view(np.uint32) if x.dtype == np.float32 else x

"""Counter-based random bits: Philox4x32-10.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
section 3.3; constants of Random123. There is no state: the same key always gives the same bits.
"""

from enum import IntEnum

import numpy as np

from .arrays import Ints, Words

ROUNDS = 10
MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
WEYL = np.array([0x9E3779B9, 0xBB67AE85], dtype=np.uint64)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


class Purpose(IntEnum):
    """What noise is for. Two purposes never share bits."""

    TOKEN = 0
    DRAFT = 1
    ACCEPT = 2
    RESIDUAL = 3


def philox4x32(counter: Words, key: Words) -> Words:
    """Philox4x32-10 of counters (..., 4) under keys (..., 2): words (..., 4)."""
    c0, c1, c2, c3 = np.moveaxis(counter.astype(np.uint64), -1, 0)
    k0, k1 = np.moveaxis(key.astype(np.uint64), -1, 0)
    for _ in range(ROUNDS):
        left, right = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = (right >> HALF) ^ c1 ^ k0, (left >> HALF) ^ c3 ^ k1
        c1, c3 = right & LOW, left & LOW
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    words = np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1)
    return words.astype(np.uint32)


def noise_bits(
    seed: int,
    position: Ints | int,
    purpose: Purpose,
    token: Ints | int,
    anchor: Ints | int = 0,
) -> Words:
    """32 random bits per (position, token), which broadcast against each other.

    Key: seed, low word first. Counter: (position, purpose, token // 4, anchor). Output word
    token % 4. `position` is that of the token being chosen, `token` its id in the target's
    vocabulary, `anchor` is used by block verification only.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed} is not an unsigned 64-bit number")
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.uint32)
    token = np.asarray(token, dtype=np.int64)
    parts = np.broadcast_arrays(np.asarray(position), int(purpose), token // 4, np.asarray(anchor))
    words = philox4x32(np.stack(parts, axis=-1).astype(np.uint32), key)
    lane = np.broadcast_to(token % 4, words.shape[:-1])
    return np.take_along_axis(words, lane[..., None], axis=-1)[..., 0]

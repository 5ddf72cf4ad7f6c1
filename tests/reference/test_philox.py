"""Philox against the published known-answer tests of Random123, and the key layout."""

import numpy as np
import pytest

from .philox import Purpose, noise_bits, philox4x32

KNOWN_ANSWERS = [  # counter, key, output: kat_vectors of Random123, philox4x32 10
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text: str) -> np.ndarray:
    """32-bit words of a row of hexadecimal numbers."""
    return np.array([int(word, 16) for word in text.split()], dtype=np.uint32)


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_known_answers(counter: str, key: str, output: str) -> None:
    """The published vectors."""
    assert np.array_equal(philox4x32(words(counter), words(key)), words(output))


def test_vectorised_equals_single() -> None:
    """Many counters at once give what each gives alone."""
    counters = np.arange(40, dtype=np.uint32).reshape(10, 4)
    key = words("12345678 9abcdef0")
    together = philox4x32(counters, key)
    for counter, output in zip(counters, together, strict=True):
        assert np.array_equal(philox4x32(counter, key), output)


def test_key_layout() -> None:
    """Seed low word first; counter (position, purpose, token // 4, anchor); lane token % 4."""
    seed, position, token, anchor = 0x0123456789ABCDEF, 77, 1234 * 4 + 3, 9
    counter = np.array([position, Purpose.RESIDUAL, 1234, anchor], dtype=np.uint32)
    expected = philox4x32(counter, words("89abcdef 01234567"))[3]
    assert noise_bits(seed, position, Purpose.RESIDUAL, token, anchor) == expected


def test_pinned_values() -> None:
    """Figures that any other implementation of the layout can compare with."""
    bits = noise_bits(42, 7, Purpose.TOKEN, np.arange(6))
    assert [f"{x:08x}" for x in bits] == [
        "5bbd83b1",
        "68784c85",
        "172067aa",
        "2e6b75b7",
        "4c78c45f",
        "5281c34e",
    ]


def test_broadcasting_of_positions_and_tokens() -> None:
    """Positions (p, 1) and tokens (v,) give (p, v)."""
    positions, tokens = np.arange(5)[:, None], np.arange(9)
    bits = noise_bits(3, positions, Purpose.TOKEN, tokens)
    assert bits.shape == (5, 9)
    assert bits[4, 8] == noise_bits(3, 4, Purpose.TOKEN, 8)


def test_all_parts_of_the_key_matter() -> None:
    """Changing any one part changes the bits."""
    different = {
        int(noise_bits(1, 2, Purpose.DRAFT, 3, 4)),
        int(noise_bits(1 + 2**32, 2, Purpose.DRAFT, 3, 4)),
        int(noise_bits(2, 2, Purpose.DRAFT, 3, 4)),
        int(noise_bits(1, 3, Purpose.DRAFT, 3, 4)),
        int(noise_bits(1, 2, Purpose.ACCEPT, 3, 4)),
        int(noise_bits(1, 2, Purpose.DRAFT, 2, 4)),
        int(noise_bits(1, 2, Purpose.DRAFT, 7, 4)),
        int(noise_bits(1, 2, Purpose.DRAFT, 3, 5)),
    }
    assert len(different) == 8


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_refuses_a_seed_out_of_range(seed: int) -> None:
    """Seeds are unsigned 64-bit numbers."""
    with pytest.raises(ValueError, match="seed"):
        noise_bits(seed, 0, Purpose.TOKEN, 0)

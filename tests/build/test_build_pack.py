"""Packing: layouts byte for byte, round trips, and conversion between element types."""

import numpy as np
import pytest
from reference.ops import bf16_bits
from specrt.build.graph import DType, Layout, packed_bytes
from specrt.build.pack import (
    all_finite,
    bf16_from_float,
    converted,
    float_from_bf16,
    pack_panels,
    pack_tiles,
    unpack_panels,
    unpack_tiles,
)

SHAPES = [(1, 1), (1, 7), (15, 2), (16, 16), (17, 3), (31, 5), (48, 10), (277, 33)]
RNG = np.random.default_rng


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_round_trip(shape, dtype):
    matrix = converted(RNG(0).standard_normal(shape).astype(np.float32), dtype)
    packed = pack_panels(matrix)
    assert packed.dtype == matrix.dtype
    assert packed.nbytes == packed_bytes(dtype, Layout.PANELS16, *shape)
    np.testing.assert_array_equal(unpack_panels(packed, *shape), matrix)


def test_f32_layout():
    rows, cols = 18, 3
    matrix = np.arange(1, rows * cols + 1, dtype=np.float32).reshape(rows, cols)
    packed = pack_panels(matrix).reshape(2, cols, 16)
    for panel, col, row in np.ndindex(packed.shape):
        r = panel * 16 + row
        assert packed[panel, col, row] == (matrix[r, col] if r < rows else 0)


def test_bf16_layout():
    rows, cols = 18, 3
    matrix = np.arange(1, rows * cols + 1, dtype=np.uint16).reshape(rows, cols)
    packed = pack_panels(matrix).reshape(2, 2, 16, 2)
    for panel, pair, row, half in np.ndindex(packed.shape):
        r, c = panel * 16 + row, pair * 2 + half
        assert packed[panel, pair, row, half] == (matrix[r, c] if r < rows and c < cols else 0)


# (rows, cols, pair stride): plain, heads of 64, 96, 128, gate and up.
TILES = [(1, 1, 8), (15, 2, 8), (17, 31, 8), (48, 33, 8), (277, 65, 8), (16, 32, 8)]
TILES += [(192, 7, 32), (288, 33, 48), (256, 64, 64), (80, 37, 40), (16, 1, 8), (208, 32, 104)]


@pytest.mark.parametrize(("rows", "cols", "stride"), TILES)
def test_tiles_round_trip(rows, cols, stride):
    matrix = RNG(0).integers(1, 1 << 16, (rows, cols), dtype=np.uint16)
    packed = pack_tiles(matrix, stride)
    assert packed.nbytes == packed_bytes(DType.BF16, Layout.TILES16X32, rows, cols)
    np.testing.assert_array_equal(unpack_tiles(packed, rows, cols, stride), matrix)
    assert np.count_nonzero(packed) == matrix.size  # padding is zero


@pytest.mark.parametrize(("rows", "cols", "stride"), TILES)
def test_tiles_layout(rows, cols, stride):
    """[panel][block of 32 cols][half][lane][8 cols], index by index."""
    matrix = RNG(1).integers(1, 1 << 16, (rows, cols), dtype=np.uint16)
    packed = pack_tiles(matrix, stride).reshape(-(-rows // 16), -(-cols // 32), 2, 32, 8)
    for panel, block, half, lane, word in np.ndindex(packed.shape):
        group, inside = divmod(panel, stride // 8)
        row = group * 2 * stride + half * stride + inside * 8 + lane // 4
        col = block * 32 + lane % 4 * 8 + word
        expected = matrix[row, col] if row < rows and col < cols else 0
        assert packed[panel, block, half, lane, word] == expected


def test_bf16_rounds_to_nearest_even():
    special = np.array([0, -0.0, 1e-45, 1, np.inf, -np.inf, 3.4e38, 1.00390625], np.float32)
    halves = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF807FFF], np.uint32)
    values = np.concatenate([special, halves.view(np.float32), RNG(1).standard_normal(1000)])
    values = values.astype(np.float32)
    np.testing.assert_array_equal(bf16_from_float(values), bf16_bits(values))
    assert np.isnan(float_from_bf16(bf16_from_float(np.array([np.nan, -np.nan], np.float32)))).all()


def test_conversion_keeps_what_fits():
    half = RNG(2).standard_normal(100).astype(np.float16)
    np.testing.assert_array_equal(converted(half, DType.F32), half.astype(np.float32))
    bits = bf16_from_float(RNG(3).standard_normal(100).astype(np.float32))
    np.testing.assert_array_equal(converted(bits, DType.BF16), bits)
    np.testing.assert_array_equal(converted(converted(bits, DType.F32), DType.BF16), bits)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite(bad):
    good, wrong = np.array([1, -3e38], np.float32), np.array([1, bad], np.float32)
    assert all_finite(good)
    assert all_finite(bf16_from_float(good))
    assert not all_finite(wrong)
    assert not all_finite(bf16_from_float(wrong))

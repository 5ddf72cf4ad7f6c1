"""Packs matrices as the runtime reads them, and back. Bit-exact; bf16 is carried as uint16.

A panels16 matrix (cpp/base/view.h) has panels of 16 rows: [panel][col pair][16 rows][2 cols] in
bf16, [panel][col][16 rows] in f32. Rows are padded with zeros to 16, bf16 columns to 2.

A tiles16x32 matrix (bf16) has panels of 16 rows too, but 8 of them and the 8 that are `pair_stride`
behind: [panel][block of 32 cols][half][8 rows][32 cols]. Rows come in groups of twice the pair
stride, 8 of each half after 8. Rows are padded with zeros to 16, columns to 32.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from specrt.build.graph import PANEL_ROWS, TILE_COLS, DType, padded_rows

_HALF = PANEL_ROWS // 2
STORAGE = {DType.F32: np.dtype("<f4"), DType.BF16: np.dtype("<u2")}


def bf16_from_float(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to bf16 bit patterns, to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    if nan.any():
        rounded[nan] = (bits[nan] >> 16).astype(np.uint16) | np.uint16(0x40)
    return np.asarray(rounded)


def float_from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen bf16 bit patterns to float32."""
    return np.asarray((bits.astype(np.uint32) << 16).view(np.float32))


def converted(values: NDArray[Any], dtype: DType) -> NDArray[Any]:
    """Elements of a checkpoint (f32, f16, or bf16 as uint16) as `dtype` stores them."""
    is_bf16 = values.dtype == np.uint16
    if dtype is DType.F32:
        return float_from_bf16(values) if is_bf16 else values.astype(np.float32, copy=False)
    return values if is_bf16 else bf16_from_float(values.astype(np.float32, copy=False))


def all_finite(values: NDArray[Any]) -> bool:
    """Whether stored elements (float32, or bf16 as uint16) have neither NaN nor infinity."""
    if values.dtype == np.uint16:
        return not bool(((values & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(values).all())


def pack_panels(matrix: NDArray[Any]) -> NDArray[Any]:
    """Pack a matrix (rows, cols) of float32 or uint16 as panels16; a flat array of its dtype."""
    rows, cols = matrix.shape
    row_pad = padded_rows(rows) - rows
    if matrix.dtype == np.float32:
        padded = np.pad(matrix, ((0, row_pad), (0, 0))) if row_pad else matrix
        return np.asarray(padded.reshape(-1, PANEL_ROWS, cols).transpose(0, 2, 1).reshape(-1))
    col_pad = cols % 2
    padded = np.pad(matrix, ((0, row_pad), (0, col_pad))) if row_pad or col_pad else matrix
    pairs = np.ascontiguousarray(padded).view(np.uint32)
    panels = pairs.reshape(-1, PANEL_ROWS, pairs.shape[1]).transpose(0, 2, 1).reshape(-1)
    return np.asarray(panels.view(matrix.dtype))


def unpack_panels(packed: NDArray[Any], rows: int, cols: int) -> NDArray[Any]:
    """Inverse of pack_panels: the matrix (rows, cols); padding is dropped."""
    if packed.dtype == np.float32:
        panels = packed.reshape(-1, cols, PANEL_ROWS)
        return np.asarray(panels.transpose(0, 2, 1).reshape(-1, cols)[:rows])
    pairs = packed.view(np.uint32).reshape(-1, (cols + 1) // 2, PANEL_ROWS)
    matrix = pairs.transpose(0, 2, 1).reshape(-1, (cols + 1) // 2)
    return np.asarray(np.ascontiguousarray(matrix).view(packed.dtype)[:rows, :cols])


def pack_tiles(matrix: NDArray[np.uint16], pair_stride: int) -> NDArray[np.uint16]:
    """Pack a bf16 matrix (rows, cols) as tiles16x32; flat.

    Its rows are whole groups of twice `pair_stride` (a multiple of 8), unless that is 8.
    """
    rows, cols = matrix.shape
    pad = padded_rows(rows) - rows, -cols % TILE_COLS
    padded = np.pad(matrix, ((0, pad[0]), (0, pad[1]))) if any(pad) else matrix
    groups = padded.reshape(
        -1, 2, pair_stride // _HALF, _HALF, padded.shape[1] // TILE_COLS, TILE_COLS
    )
    return np.asarray(groups.transpose(0, 2, 4, 1, 3, 5).reshape(-1))


def unpack_tiles(
    packed: NDArray[np.uint16], rows: int, cols: int, pair_stride: int
) -> NDArray[np.uint16]:
    """Inverse of pack_tiles: the matrix (rows, cols); padding is dropped."""
    blocks = -(-cols // TILE_COLS)
    tiles = packed.reshape(-1, pair_stride // _HALF, blocks, 2, _HALF, TILE_COLS)
    matrix = tiles.transpose(0, 3, 1, 4, 2, 5).reshape(-1, blocks * TILE_COLS)
    return np.asarray(matrix[:rows, :cols])

"""Weights for single ops, packed as the backend under test reads them (cpp/base/view.h)."""

import numpy as np
from backends import by_backend
from numpy.typing import NDArray
from op_arrays import stored

LAYOUT = by_backend(cpu="panels16", cuda="tiles16x32")
PANEL_ROWS = 16
TILE_COLS = 32


def _padded(weight: NDArray[np.floating], rows: int, cols: int) -> NDArray[np.float32]:
    """Zeros behind the weight up to multiples of `rows` and `cols`."""
    m, k = weight.shape
    out = np.zeros((-(-m // rows) * rows, -(-k // cols) * cols), dtype=np.float32)
    out[:m, :k] = weight
    return out


def _panels(weight: NDArray[np.floating], dtype: str) -> NDArray:
    """[panel][col pair][16 rows][2 cols]; single columns in f32."""
    pair = 1 if dtype == "f32" else 2
    padded = _padded(weight, PANEL_ROWS, pair)
    panels = padded.reshape(-1, PANEL_ROWS, padded.shape[1] // pair, pair)
    return np.ascontiguousarray(stored(panels.transpose(0, 2, 1, 3), dtype)).reshape(-1)


def _tiles(weight: NDArray[np.floating], pair_stride: int) -> NDArray:
    """[panel][block of 32 cols][half][8 rows][32 cols] in bf16.

    Half 0 of a panel has 8 rows of the weight, half 1 the rows `pair_stride` behind those.
    """
    padded = _padded(weight, PANEL_ROWS, TILE_COLS)
    first = [row for row in range(len(padded)) if row // pair_stride % 2 == 0]
    rows = np.array(first).reshape(-1, 1, 8) + np.array([0, pair_stride]).reshape(1, 2, 1)
    tiles = padded[rows].reshape(len(rows), 2, 8, -1, TILE_COLS).transpose(0, 3, 1, 2, 4)
    return np.ascontiguousarray(stored(tiles, "bf16")).reshape(-1)


def pack(weight: NDArray[np.floating], dtype: str, pair_stride: int = 8) -> NDArray:
    """Weight (m, k) for `linear`; only tiles have pairs."""
    if LAYOUT == "panels16":
        return _panels(weight, dtype)
    return _tiles(weight, pair_stride)


class GateUp:
    """Weights gate and up (f, k) as one for the epilogue swiglu."""

    def __init__(self, gate: NDArray[np.floating], up: NDArray[np.floating], dtype: str) -> None:
        """Tiles pair a row of gate with that of up; panels of both alternate."""
        f, k = gate.shape
        if LAYOUT == "tiles16x32":
            self.rows, self.pair_stride = 2 * f, f
            self.packed = _tiles(np.concatenate([gate, up]), f)
            return
        panels = [_padded(part, PANEL_ROWS, 1).reshape(-1, 1, PANEL_ROWS, k) for part in (gate, up)]
        mixed = np.concatenate(panels, axis=1).reshape(-1, k)
        self.rows, self.pair_stride = len(mixed), 8
        self.packed = _panels(mixed, dtype)

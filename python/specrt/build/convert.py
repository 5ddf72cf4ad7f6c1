"""Turns the parameters of a checkpoint into the bytes of an engine's tensors, in small chunks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specrt.build.checkpoint import Checkpoint
from specrt.build.errors import BuildError
from specrt.build.graph import (
    PANEL_ROWS,
    Arrangement,
    Constant,
    DType,
    Layout,
    Parameter,
    Tensor,
    Weight,
)
from specrt.build.pack import all_finite, converted, pack_panels, pack_tiles

CHUNK_BYTES = 4 << 20  # of a chunk in f32; a chunk has at least one panel of every part


def _rows(
    checkpoint: Checkpoint, parameter: Parameter, begin: int, end: int, dtype: DType
) -> NDArray[Any]:
    """Rows [begin, end) of a parameter as `dtype`. Raises BuildError if they are not finite."""
    stored = checkpoint.tensor(parameter)
    rows = stored.read_rows(begin, end)
    if parameter.columns:
        rows = np.ascontiguousarray(rows[:, slice(*parameter.columns)])
    values = converted(rows, dtype)
    if not all_finite(values):
        raise BuildError(
            f"{stored.file}: tensor {stored.name!r} holds NaN, infinity, or values too large for "
            f"{dtype.value}; the checkpoint is damaged or needs --dtype f32"
        )
    return values


def _stacked(checkpoint: Checkpoint, weight: Weight, *ranges: tuple[int, int]) -> NDArray[Any]:
    """Rows [begin, end) of the parts one after another, for each of the ranges in turn."""
    pieces = []
    for begin, end in ranges:
        at = 0
        for part in weight.parts:
            first, last = max(begin - at, 0), min(end - at, part.rows)
            if first < last:
                pieces.append(_rows(checkpoint, part, first, last, weight.dtype))
            at += part.rows
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _interleaved(checkpoint: Checkpoint, weight: Weight, begin: int, end: int) -> NDArray[Any]:
    """Rows [begin, end) of a weight whose parts take turns; both are multiples of its period."""
    count = len(weight.parts)
    first, last = begin // count, end // count
    panels = []
    for part in weight.parts:
        rows = _rows(checkpoint, part, first, min(last, part.rows), weight.dtype)
        padding = last - first - len(rows)
        padded = np.pad(rows, ((0, padding), (0, 0))) if padding else rows
        panels.append(padded.reshape(-1, PANEL_ROWS, weight.cols))
    return np.stack(panels, axis=1).reshape(-1, weight.cols)


def _tiles(checkpoint: Checkpoint, weight: Weight) -> Iterator[NDArray[Any]]:
    """Chunks of tiles: several groups, or where a group is too large a part of its panels."""
    stride = weight.pair_stride
    panels = max(1, CHUNK_BYTES // (weight.cols * 4 * PANEL_ROWS))
    step = panels * PANEL_ROWS // (2 * stride) * 2 * stride
    if step:
        for begin in range(0, weight.rows, step):
            end = min(begin + step, weight.rows)
            yield pack_tiles(_stacked(checkpoint, weight, (begin, end)), stride)
        return
    half = panels * PANEL_ROWS // 2
    for group in range(0, weight.rows, 2 * stride):
        middle = group + stride
        for begin in range(group, middle, half):
            end = min(begin + half, middle)
            pairs = (begin, end), (begin + stride, end + stride)
            yield pack_tiles(_stacked(checkpoint, weight, *pairs), end - begin)


def tensor_chunks(checkpoint: Checkpoint, tensor: Tensor) -> Iterator[NDArray[Any]]:
    """Contiguous pieces that make a tensor's bytes in the engine, in order. Raises BuildError."""
    if isinstance(tensor, Constant):
        yield np.asarray(tensor.values, "<f4")
        return
    if tensor.arrangement is Arrangement.JOINED:
        for part in tensor.parts:
            yield _rows(checkpoint, part, 0, 1, tensor.dtype)
        return
    if tensor.layout is Layout.TILES16X32:
        yield from _tiles(checkpoint, tensor)
        return
    period = PANEL_ROWS * (1 if tensor.arrangement is Arrangement.STACKED else len(tensor.parts))
    step = max(1, CHUNK_BYTES // (tensor.cols * 4 * period)) * period
    for begin in range(0, tensor.rows, step):
        end = min(begin + step, tensor.rows)
        if tensor.arrangement is Arrangement.INTERLEAVED:
            rows = _interleaved(checkpoint, tensor, begin, end)
        else:
            rows = _stacked(checkpoint, tensor, (begin, end))
        yield pack_panels(rows) if tensor.layout is Layout.PANELS16 else rows

"""Reads safetensors files of unknown origin: the header is checked, tensors are read by rows.

Format: header length (u64, little endian), JSON {name: {dtype, shape, data_offsets}}, tensor bytes;
offsets count from the end of the header, do not overlap, and leave no hole.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specrt.build.errors import BuildError
from specrt.build.json_file import parse_json

HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library
MAX_TENSORS = 1 << 20
DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
}
NUMPY_TYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies."""

    file: Path
    name: str
    dtype: str  # a key of DTYPE_BYTES
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    size: int  # bytes

    def read_rows(self, begin: int, end: int) -> NDArray[Any]:
        """Rows [begin, end) of the first dimension (a vector is one row), shape (rows, cols).

        The element type is that of NUMPY_TYPES: bf16 comes as bit patterns. Raises BuildError.
        """
        return self._values(NUMPY_TYPES[self.dtype], begin, end)

    def read_integers(self) -> NDArray[Any]:
        """All values of a vector of 64-bit integers. Raises BuildError."""
        if self.dtype != "I64" or len(self.shape) != 1:
            raise BuildError(
                f"{self.file}: tensor {self.name!r} is {self.dtype} {list(self.shape)}, not a "
                "vector of I64"
            )
        return self._values(np.dtype("<i8"), 0, 1).reshape(-1)

    def _values(self, dtype: np.dtype[Any], begin: int, end: int) -> NDArray[Any]:
        cols = self.shape[-1]
        values = np.empty((end - begin, cols), dtype)
        target = values.reshape(-1).view(np.uint8).data
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(self.offset + begin * cols * dtype.itemsize)
                filled = 0
                while filled < len(target):
                    count = file.readinto(target[filled:])
                    if not count:
                        raise BuildError(f"{self.file} was cut short while it was read")
                    filled += count
        except OSError as error:
            raise BuildError(f"cannot read {self.file}: {error.strerror}") from error
        return values


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _entry(path: Path, name: str, entry: object, data_begin: int, data_bytes: int) -> StoredTensor:
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BuildError(f"{where} has no valid dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise BuildError(f"{where} has the unknown dtype {dtype!r}")
    if not isinstance(shape, list) or len(shape) > 16 or not all(map(_is_count, shape)):
        raise BuildError(f"{where} has the invalid shape {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise BuildError(f"{where} has invalid data_offsets")
    begin, end = offsets
    if not begin <= end <= data_bytes:
        raise BuildError(f"{where} lies outside the file; download the file again")
    if math.prod(shape) * DTYPE_BYTES[dtype] != end - begin:
        raise BuildError(f"{where} of shape {shape} does not fit its data_offsets")
    return StoredTensor(path, name, dtype, tuple(shape), data_begin + begin, end - begin)


def _check_cover(path: Path, tensors: list[StoredTensor], begin: int, end: int) -> None:
    """Raise BuildError unless the tensors cover [begin, end) of the file exactly once."""
    at = begin
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.size)):
        if tensor.offset != at:
            kind = "overlaps the one before" if tensor.offset < at else "leaves a hole before it"
            raise BuildError(f"{path}: tensor {tensor.name!r} {kind}; the file is damaged")
        at += tensor.size
    if at != end:
        raise BuildError(f"{path} has {end - at} bytes behind its last tensor; it is damaged")


def read_tensor_table(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a file by name. Raises BuildError if the header is not sound."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT):
                raise BuildError(f"{path} is not a safetensors file, or it is cut short")
            header = parse_json(file.read(length), f"{path}: header")
    except OSError as error:
        raise BuildError(f"cannot read {path}: {error.strerror}") from error
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise BuildError(f"{path} has more than {MAX_TENSORS} tensors")
    begin = 8 + length
    tensors = {n: _entry(path, n, entry, begin, size - begin) for n, entry in header.items()}
    _check_cover(path, list(tensors.values()), begin, size)
    return tensors

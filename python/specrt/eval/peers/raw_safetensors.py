"""Safetensors files as raw NumPy arrays, without torch and without a bf16 NumPy type.

bf16 tensors come and go as uint16 bit patterns. The format: a little-endian u64 header length, a
JSON header (name -> dtype, shape, data_offsets), then the data. Not for untrusted files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from specrt.build.pack import bf16_from_float, float_from_bf16

Array = npt.NDArray[Any]

_STORED = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


@dataclass(frozen=True)
class RawTensor:
    """A tensor as stored: `dtype` is the safetensors name, `data` holds uint16 bits for BF16."""

    dtype: str
    data: Array

    def as_f32(self) -> npt.NDArray[np.float32]:
        """The values in float32 (exact for BF16 and F16)."""
        if self.dtype == "BF16":
            return float_from_bf16(self.data)
        return self.data.astype(np.float32)

    def as_bf16_bits(self) -> npt.NDArray[np.uint16]:
        """The values rounded to bf16 (nearest even), as bits."""
        if self.dtype == "BF16":
            return self.data.astype(np.uint16, copy=False)
        return bf16_from_float(self.as_f32())


def read_folder(folder: Path) -> Iterator[tuple[str, RawTensor]]:
    """Every tensor of a Hugging Face folder's `*.safetensors` files, memory mapped.

    Raises FileNotFoundError when there is none, ValueError on a dtype other than BF16, F16, F32.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"no .safetensors file in {folder}")
    for path in paths:
        yield from _read_file(path)


def _read_file(path: Path) -> Iterator[tuple[str, RawTensor]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    blob = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _STORED:
            raise ValueError(f"{path.name}: {name} is {entry['dtype']}; want BF16, F16 or F32")
        begin, end = entry["data_offsets"]
        data = np.array(blob[begin:end]).view(_STORED[entry["dtype"]]).reshape(entry["shape"])
        yield name, RawTensor(entry["dtype"], data)


def write_bf16(path: Path, tensors: Mapping[str, npt.NDArray[np.uint16]]) -> None:
    """Write bf16 bit patterns as one safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, data in tensors.items():
        header[name] = {
            "dtype": "BF16",
            "shape": list(data.shape),
            "data_offsets": [offset, offset + data.nbytes],
        }
        offset += data.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for data in tensors.values():
            file.write(np.ascontiguousarray(data).tobytes())

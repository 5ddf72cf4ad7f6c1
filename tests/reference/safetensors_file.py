"""Reads and writes safetensors files, bfloat16 included, which NumPy has no type for.

Format: header length (u64, little-endian), JSON header {name: {dtype, shape, data_offsets}} padded
with spaces, then the tensors' bytes; offsets count from the end of the header.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import Floats
from .ops import bf16_bits, bf16_values

ALIGNMENT = 8


def decode(dtype: str, shape: list[int], data: bytes) -> Floats:
    """Values of one stored tensor: float32, or float16 and bfloat16 widened to it."""
    if dtype == "BF16":
        return bf16_values(np.frombuffer(data, dtype="<u2").astype(np.uint32)).reshape(shape)
    if dtype in ("F32", "F16"):
        values = np.frombuffer(data, dtype="<f4" if dtype == "F32" else "<f2")
        return values.astype(np.float32).reshape(shape)
    raise ValueError(f"tensor type {dtype} is not supported")


def encode(dtype: str, values: Floats) -> bytes:
    """Bytes of one tensor, stored as "BF16" (rounded to nearest) or "F32"."""
    if dtype == "BF16":
        return bf16_bits(values).astype("<u2").tobytes()
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    raise ValueError(f"tensor type {dtype} is not supported")


def read_safetensors(path: Path) -> dict[str, Floats]:
    """All tensors of one file by name, as float32."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)

    def tensor(entry: dict[str, Any]) -> Floats:
        first, last = (start + offset for offset in entry["data_offsets"])
        return decode(entry["dtype"], entry["shape"], content[first:last])

    return {name: tensor(entry) for name, entry in header.items()}


def write_safetensors(path: Path, tensors: Mapping[str, Floats], dtype: str) -> int:
    """Write all tensors as `dtype`; the number of bytes of the tensors is returned."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, values in tensors.items():
        first = len(data)
        data += encode(dtype, values)
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [first, len(data)],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return len(data)

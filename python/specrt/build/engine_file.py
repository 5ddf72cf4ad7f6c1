"""Writes and reads engine files, as cpp/engine/format.h specifies them.

The structs below mirror FileHeader, TensorRecord, BufferRecord, KvRecord and OpRecord field by
field, little endian.
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specrt.build.errors import BuildError
from specrt.build.graph import DType, Layout, packed_bytes
from specrt.build.json_file import parse_json

MAGIC = b"SPECRT\x1a\n"
FORMAT_VERSION = 6
BACKENDS = ("cpu", "cuda")  # by code
LAYOUT_VERSIONS = {"cpu": 1, "cuda": 1}
DTYPES = (DType.F32, DType.BF16)
LAYOUTS = (Layout.ROW_MAJOR, Layout.PANELS16, Layout.TILES16X32)
OP_KINDS = (
    "embed",
    "rope_angles",
    "rms_norm",
    "linear",
    "rope_kv",
    "attention",
    "keep_features",
    "load_features",
    "plan_streams",
    "insert_streams",
    "convert",
    "scatter",
)
OP_ROWS = ("all", "streams", "scored", "draft")
NONE = -1
EOS_SLOTS = 16
WEIGHTS_ALIGNMENT = 4096
TENSOR_ALIGNMENT = 64
MAX_META = 64 << 20
MAX_TEXT = 256 << 20
MAX_COUNTS = (65536, 4096, 1024, 65536)  # tensors, buffers, caches, ops

_HEADER = struct.Struct("<8sIIQQQIIIii4Iiii16iQiiIiI60x")
_HEADER_CRC_AT = 12
_TENSOR = struct.Struct("<QQIIiiiI")
_BUFFER = struct.Struct("<QIi")
_KV = struct.Struct("<iiIi")
_OP = struct.Struct("<I2iiii4i2fIi8x")


@dataclass(frozen=True)
class TensorRecord:
    """A packed tensor (rows, cols)."""

    dtype: DType
    layout: Layout
    rows: int
    cols: int
    pair_stride: int = 0  # of tiles

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return packed_bytes(self.dtype, self.layout, self.rows, self.cols)


@dataclass(frozen=True)
class BufferRecord:
    """An activation; `offset` in bytes per row of capacity."""

    offset: int
    dtype: DType
    cols: int


@dataclass(frozen=True)
class KvRecord:
    """The cache of one layer."""

    kv_heads: int
    head_dim: int
    dtype: DType
    window: int = 0  # positions that a row sees; 0: all


@dataclass(frozen=True)
class OpRecord:
    """An op; ids index the plan's tables, NONE where unused."""

    kind: str  # of OP_KINDS
    inputs: tuple[int, int]
    out: int
    tensor: int
    kv: int
    integers: tuple[int, int, int, int]
    reals: tuple[float, float]
    rows: str = "all"  # of OP_ROWS
    draft: int = 0  # token whose row it is, with rows "draft"


@dataclass(frozen=True)
class Plan:
    """Everything of an engine but its weights."""

    backend: str
    dtype: DType
    vocab: int
    context: int
    eos: tuple[int, ...]
    tensors: tuple[TensorRecord, ...]
    buffers: tuple[BufferRecord, ...]
    caches: tuple[KvRecord, ...]
    ops: tuple[OpRecord, ...]
    logits_buffer: int
    head_begin: int
    token_table: bytes = b""  # see token_text.py
    mask_token: int | None = None  # of a drafter that fills masks
    feature_cols: int = 0  # hidden states of a target for its drafter, stored in `dtype`; 0: none
    streams: int = 0  # of a row in the last layers of a target; 0: none
    shifted_streams: bool = False  # stream j stands j positions behind its row


@dataclass(frozen=True)
class EngineHeader:
    """What `read_header` finds. Offsets and sizes in bytes."""

    plan: Plan
    meta: dict[str, Any]
    tensor_offsets: tuple[int, ...]
    weights_begin: int
    file_bytes: int


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _tables_bytes(counts: Iterable[int]) -> int:
    sizes = (_TENSOR.size, _BUFFER.size, _KV.size, _OP.size)
    return _HEADER.size + sum(n * size for n, size in zip(counts, sizes, strict=True))


def _counts(plan: Plan) -> tuple[int, int, int, int]:
    return len(plan.tensors), len(plan.buffers), len(plan.caches), len(plan.ops)


def _place(plan: Plan, meta: bytes) -> tuple[int, list[int], int]:
    """Return where weights begin, where every tensor begins, and the size of the file."""
    tables = _tables_bytes(_counts(plan)) + len(meta) + len(plan.token_table)
    begin = _aligned(tables, WEIGHTS_ALIGNMENT)
    offsets, end = [], begin
    for tensor in plan.tensors:
        offsets.append(_aligned(end, TENSOR_ALIGNMENT))
        end = offsets[-1] + tensor.size
    return begin, offsets, end


def _meta_text(meta: dict[str, Any]) -> bytes:
    """JSON, filled up with spaces so that the token table behind it is aligned."""
    text = json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def file_size(plan: Plan, meta: dict[str, Any]) -> int:
    """Bytes that the engine file will have."""
    return _place(plan, _meta_text(meta))[2]


def _header(plan: Plan, meta: bytes) -> bytes:
    """Bytes of the file up to `weights_begin`. Raises BuildError if the plan is too large."""
    counts = _counts(plan)
    if any(n > most for n, most in zip(counts, MAX_COUNTS, strict=True)) or len(meta) > MAX_META:
        raise BuildError(f"a plan of {counts} tensors, buffers, caches, ops exceeds {MAX_COUNTS}")
    if len(plan.token_table) > MAX_TEXT:
        raise BuildError(f"a token table of {len(plan.token_table)} bytes exceeds {MAX_TEXT}")
    begin, offsets, end = _place(plan, meta)
    backend, dtype = BACKENDS.index(plan.backend), DTYPES.index(plan.dtype)
    eos = plan.eos + (0,) * (EOS_SLOTS - len(plan.eos))
    data = bytearray(
        _HEADER.pack(
            *(MAGIC, FORMAT_VERSION, 0, end, begin, len(meta)),
            *(backend, LAYOUT_VERSIONS[plan.backend], dtype, plan.vocab, plan.context, *counts),
            *(plan.logits_buffer, plan.head_begin, len(plan.eos), *eos, len(plan.token_table)),
            0 if plan.mask_token is None else plan.mask_token + 1,
            *(plan.feature_cols, dtype if plan.feature_cols else 0),
            *(plan.streams, int(plan.shifted_streams)),
        )
    )
    for t, offset in zip(plan.tensors, offsets, strict=True):
        codes = DTYPES.index(t.dtype), LAYOUTS.index(t.layout)
        data += _TENSOR.pack(offset, t.size, *codes, t.rows, t.cols, t.pair_stride, 0)
    for b in plan.buffers:
        data += _BUFFER.pack(b.offset, DTYPES.index(b.dtype), b.cols)
    for c in plan.caches:
        data += _KV.pack(c.kv_heads, c.head_dim, DTYPES.index(c.dtype), c.window)
    for op in plan.ops:
        ids = OP_KINDS.index(op.kind), *op.inputs, op.out, op.tensor, op.kv
        data += _OP.pack(*ids, *op.integers, *op.reals, OP_ROWS.index(op.rows), op.draft)
    data += meta + plan.token_table
    data += bytes(begin - len(data))
    struct.pack_into("<I", data, _HEADER_CRC_AT, zlib.crc32(data))
    return bytes(data)


def write_engine(
    path: Path, plan: Plan, meta: dict[str, Any], tensors: Iterable[Iterator[NDArray[Any]]]
) -> str:
    """Write an engine file and return its SHA-256 in hex.

    `tensors` gives the bytes of every tensor of the plan in order, each in contiguous chunks.
    Raises OSError, and whatever `tensors` raises; the file is then incomplete.
    """
    text = _meta_text(meta)
    _, offsets, end = _place(plan, text)
    digest = hashlib.sha256()
    with path.open("xb") as file:

        def put(data: Any) -> None:
            file.write(data)
            digest.update(data)

        put(_header(plan, text))
        for record, offset, chunks in zip(plan.tensors, offsets, tensors, strict=True):
            put(bytes(offset - file.tell()))
            for chunk in chunks:
                put(chunk.reshape(-1).view(np.uint8).data)
            if file.tell() != offset + record.size:
                raise AssertionError(f"{record} was given {file.tell() - offset} bytes")
        file.flush()
        os.fsync(file.fileno())
        if file.tell() != end:
            raise AssertionError(f"wrote {file.tell()} bytes instead of {end}")
    return digest.hexdigest()


def _unpack_tables(data: bytes, counts: tuple[int, ...]) -> list[list[tuple[Any, ...]]]:
    at, tables = _HEADER.size, []
    for record, n in zip((_TENSOR, _BUFFER, _KV, _OP), counts, strict=True):
        size = n * record.size
        tables.append(list(record.iter_unpack(data[at : at + size])))
        at += size
    return tables


def _op_record(o: tuple[Any, ...]) -> OpRecord:
    ids = o[1:3], o[3], o[4], o[5]
    return OpRecord(OP_KINDS[o[0]], *ids, o[6:10], o[10:12], OP_ROWS[o[12]])


def _parse(path: Path, data: bytes, fields: tuple[Any, ...]) -> EngineHeader:
    """Make an EngineHeader of checked header bytes. Raises IndexError for unknown codes."""
    _, _, _, file_bytes, weights_begin, meta_bytes, backend, _, dtype = fields[:9]
    vocab, context, *rest = fields[9:]
    counts, (logits, head_begin, eos_count, *eos) = tuple(rest[:4]), rest[4:-6]
    text_bytes, mask_token, feature_cols, _, streams, shifted = rest[-6:]
    begin = _tables_bytes(counts)
    text_begin = begin + fields[5]
    tensors, buffers, caches, ops = _unpack_tables(data, counts)
    plan = Plan(
        backend=BACKENDS[backend],
        dtype=DTYPES[dtype],
        vocab=vocab,
        context=context,
        eos=tuple(eos[:eos_count]),
        tensors=tuple(TensorRecord(DTYPES[t[2]], LAYOUTS[t[3]], *t[4:7]) for t in tensors),
        buffers=tuple(BufferRecord(b[0], DTYPES[b[1]], b[2]) for b in buffers),
        caches=tuple(KvRecord(c[0], c[1], DTYPES[c[2]], c[3]) for c in caches),
        ops=tuple(_op_record(o) for o in ops),
        logits_buffer=logits,
        head_begin=head_begin,
        token_table=data[text_begin : text_begin + text_bytes],
        mask_token=mask_token - 1 if mask_token else None,
        feature_cols=feature_cols,
        streams=streams,
        shifted_streams=bool(shifted),
    )
    meta = parse_json(data[begin : begin + meta_bytes], f"{path}: meta")
    return EngineHeader(plan, meta, tuple(t[0] for t in tensors), weights_begin, file_bytes)


def read_header(path: Path) -> EngineHeader:
    """Read the plan of an engine file and check its header's CRC. Raises BuildError."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size or not head.startswith(MAGIC):
                raise BuildError(f"{path} is not an engine file")
            fields = _HEADER.unpack(head)
            version, crc, file_bytes, begin, meta_bytes = fields[1:6]
            if version != FORMAT_VERSION:
                raise BuildError(
                    f"{path} has format {version}, not {FORMAT_VERSION}; build the bundle again"
                )
            if fields[6] < len(BACKENDS) and fields[7] != LAYOUT_VERSIONS[BACKENDS[fields[6]]]:
                raise BuildError(f"{path} has layout version {fields[7]}; build the bundle again")
            limit = WEIGHTS_ALIGNMENT + MAX_META + MAX_TEXT + _tables_bytes(MAX_COUNTS)
            tables = _tables_bytes(fields[11:15]) + meta_bytes + fields[-6]
            if file_bytes != size or begin > min(size, limit) or tables > begin:
                raise BuildError(f"{path} is cut short or damaged; build the bundle again")
            data = bytearray(head + file.read(begin - _HEADER.size))
    except OSError as error:
        raise BuildError(f"cannot read {path}: {error.strerror}") from error
    data[_HEADER_CRC_AT : _HEADER_CRC_AT + 4] = bytes(4)
    if zlib.crc32(data) != crc:
        raise BuildError(f"{path}: the header is damaged (CRC); build the bundle again")
    try:
        return _parse(path, bytes(data), fields)
    except IndexError as error:
        raise BuildError(f"{path} has codes that this version does not know") from error

"""A model's step as data: ops on named values. Architectures write it, passes rewrite it.

Nothing here knows Hugging Face names, files or memory.
"""

from dataclasses import dataclass
from enum import Enum

PANEL_ROWS = 16
TILE_COLS = 32
PLAIN_PAIRS = PANEL_ROWS // 2  # pair stride of tiles that leave the rows in their order


class DType(Enum):
    """Element type of weights, activations and caches."""

    F32 = "f32"
    BF16 = "bf16"

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return 4 if self is DType.F32 else 2


class Layout(Enum):
    """How a weight lies in memory; cpp/base/view.h says what each one means."""

    ROW_MAJOR = "row_major"
    PANELS16 = "panels16"
    TILES16X32 = "tiles16x32"


class Arrangement(Enum):
    """How the parts of a weight make its rows."""

    STACKED = "stacked"  # one part after another
    INTERLEAVED = "interleaved"  # 16 rows of every part in turn, each part padded with zero rows
    JOINED = "joined"  # vectors that make one row


class Kind(Enum):
    """What an op does. ADD and SWIGLU exist only until the passes have fused them."""

    EMBED = "embed"  # () -> x (n, d); weight (v, d)
    ROPE_ANGLES = "rope_angles"  # () -> cos and sin (n, e); constant (1, e/2); real: scaling
    RMS_NORM = "rms_norm"  # x -> h; weight (1, d); real: eps
    LINEAR = "linear"  # x (n, k) -> x @ w^T (n, m); weight (m, k); vectors: bias (1, m) or none
    # qkv or q, k, v; angles -> q; writes keys and values into the cache. Vectors: none, or gains
    # (1, e) of the norms of queries and keys; real: their eps
    ROPE_KV = "rope_kv"
    ATTENTION = "attention"  # q -> (n, he); reads the cache; real: scale
    # x -> x as it is; leaves it for a drafter, or ahead as a drafter's estimate; column
    KEEP_FEATURES = "keep_features"
    # () -> what the target kept, or what `missing` says; weight (1, d) or none; column
    LOAD_FEATURES = "load_features"
    SCATTER = "scatter"  # x (n, m) -> (n, v), minus infinity elsewhere; constant ids (1, m)
    CONVERT = "convert"  # x -> x in the dtype of the output
    # exit -> exit as it is; decides which rows go on, by products with the weight (v, d)
    PLAN_STREAMS = "plan_streams"
    INSERT_STREAMS = "insert_streams"  # x -> x of the rows that go on, and streams; weight (j, d)
    ADD = "add"  # x, y -> x + y
    SWIGLU = "swiglu"  # gate, up -> silu(gate) * up


class Epilogue(Enum):
    """What a LINEAR does with its product."""

    STORE = "store"
    ADD = "add"  # adds it to what `out` holds
    SWIGLU = "swiglu"  # the weight's panels alternate gate and up, or its tiles pair them
    SILU_ADD = "silu_add"  # x + silu of it, of as many columns as x


class Missing(Enum):
    """What a LOAD_FEATURES gives where the target kept nothing."""

    MASK = "mask"  # the weight
    LAST = "last"  # what it kept last
    ESTIMATES = "estimates"  # what the drafter kept ahead; elsewhere the output stays as it is


class Section(Enum):
    """Ops of the head run only for rows whose logits are wanted."""

    BODY = "body"
    HEAD = "head"


class Rows(Enum):
    """Which rows an op runs for; cpp/engine/format.h says more."""

    ALL = "all"
    STREAMS = "streams"
    SCORED = "scored"  # all, in steps that score rows
    DRAFT = "draft"  # of a draft made at once, the one that drafts token Op.draft


@dataclass(frozen=True)
class Value:
    """An activation (n, cols). `name` is unique in the graph."""

    name: str
    cols: int
    dtype: DType


@dataclass(frozen=True)
class Parameter:
    """A tensor of the checkpoint under specrt's own name, or some columns of it.

    Its stored shape is (rows, cols), (cols,) or (1, 1, cols).
    """

    name: str
    shape: tuple[int, ...]
    columns: tuple[int, int] | None = None  # [begin, end); None: all

    @property
    def rows(self) -> int:
        """Rows; a vector is one row."""
        return self.shape[0] if len(self.shape) == 2 else 1

    @property
    def cols(self) -> int:
        """Columns."""
        return self.columns[1] - self.columns[0] if self.columns else self.shape[-1]


def padded_rows(rows: int) -> int:
    """Round up to whole panels."""
    return -(-rows // PANEL_ROWS) * PANEL_ROWS


def packed_bytes(dtype: DType, layout: Layout, rows: int, cols: int) -> int:
    """Bytes of a packed tensor (rows, cols); the same as `weight_bytes` in cpp/base/view.h."""
    if layout is Layout.ROW_MAJOR:
        return rows * cols * dtype.size
    multiple = TILE_COLS if layout is Layout.TILES16X32 else 1 if dtype is DType.F32 else 2
    return padded_rows(rows) * -(-cols // multiple) * multiple * dtype.size


@dataclass(frozen=True)
class Weight:
    """A tensor of the engine, made of vectors or of matrices with the same number of columns."""

    name: str
    parts: tuple[Parameter, ...]
    dtype: DType
    layout: Layout
    arrangement: Arrangement = Arrangement.STACKED
    pair_stride: int = 0  # of tiles: how far apart the rows of a pair are; 0 for other layouts

    @property
    def rows(self) -> int:
        """Rows, the padding inside an interleaved weight included."""
        if self.arrangement is Arrangement.STACKED:
            return sum(part.rows for part in self.parts)
        if self.arrangement is Arrangement.JOINED:
            return 1
        return sum(padded_rows(part.rows) for part in self.parts)

    @property
    def cols(self) -> int:
        """Columns of every part, or of all vectors together."""
        if self.arrangement is Arrangement.JOINED:
            return sum(part.cols for part in self.parts)
        return self.parts[0].cols


@dataclass(frozen=True)
class Constant:
    """A computed tensor (1, cols) of the engine, f32."""

    name: str
    values: tuple[float, ...]

    @property
    def dtype(self) -> DType:
        """Always f32."""
        return DType.F32

    @property
    def layout(self) -> Layout:
        """Always row-major."""
        return Layout.ROW_MAJOR

    @property
    def pair_stride(self) -> int:
        """No tiles."""
        return 0

    @property
    def rows(self) -> int:
        """Always one."""
        return 1

    @property
    def cols(self) -> int:
        """Number of values."""
        return len(self.values)


Tensor = Weight | Constant


@dataclass(frozen=True)
class Cache:
    """Key/value cache of one layer."""

    kv_heads: int
    head_dim: int
    dtype: DType
    window: int = 0  # positions that a row sees, itself included; 0: all


@dataclass(frozen=True)
class Op:
    """One op. Fields that a kind does not use keep their defaults."""

    kind: Kind
    inputs: tuple[Value, ...]
    out: Value
    tensor: Tensor | None = None
    cache: int | None = None  # index into Graph.caches
    epilogue: Epilogue = Epilogue.STORE
    heads: int = 0  # query heads
    column: int = 0  # first of the features that it keeps or loads
    missing: Missing = Missing.MASK  # of LOAD_FEATURES
    ahead: int = 0  # of KEEP_FEATURES: positions
    real: float = 0.0
    section: Section = Section.BODY
    rows: Rows = Rows.ALL
    draft: int = 0  # of Rows.DRAFT
    vectors: tuple[Weight, ...] = ()  # what the kind adds beside `tensor`

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors that it reads."""
        return (*(() if self.tensor is None else (self.tensor,)), *self.vectors)


@dataclass(frozen=True)
class Graph:
    """A whole step. The last op writes the logits."""

    ops: tuple[Op, ...]
    caches: tuple[Cache, ...]

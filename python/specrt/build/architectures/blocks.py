"""The parts of a decoder that all architectures here share, and in what they differ.

Pre-norm attention with rotary embedding and grouped queries, SwiGLU feed-forward.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from specrt.build.config import ModelConfig
from specrt.build.graph import (
    Arrangement,
    Cache,
    Constant,
    DType,
    Kind,
    Layout,
    Op,
    Parameter,
    Section,
    Value,
    Weight,
)
from specrt.build.rope import inverse_frequencies


@dataclass(frozen=True)
class Traits:
    """What an architecture adds to the projections of its attention."""

    qkv_bias: bool = False  # q, k, v = projection + bias
    head_norm: bool = False  # an RMS norm over every head of q and k, before the rotation


def matrix(name: str, rows: int, cols: int, dtype: DType) -> Weight:
    """A parameter that products are made with."""
    return Weight(name, (Parameter(name, (rows, cols)),), dtype, Layout.PANELS16)


def columns(
    name: str, parts: tuple[tuple[str, int], ...], cols: int, span: tuple[int, int], dtype: DType
) -> Weight:
    """Columns of stacked matrices (rows, cols), of which `parts` has names and rows."""
    parameters = tuple(Parameter(part, (rows, cols), span) for part, rows in parts)
    return Weight(name, parameters, dtype, Layout.PANELS16)


def vector(name: str, cols: int) -> Weight:
    """A parameter that is read as one row of floats."""
    parts = (Parameter(name, (cols,)),)
    return Weight(name, parts, DType.F32, Layout.ROW_MAJOR, Arrangement.JOINED)


def load_features(c: ModelConfig, span: tuple[int, int], dtype: DType, cols: int) -> Op:
    """Op that loads columns [begin, end) of the `cols` that a drafter reads; masks have theirs."""
    begin, end = span
    part = Parameter("mask_hidden", (1, 1, cols), span)
    mask = Weight(f"mask_hidden.{begin}", (part,), DType.F32, Layout.ROW_MAJOR, Arrangement.JOINED)
    out = Value(f"features.{begin}", end - begin, dtype)
    return Op(Kind.LOAD_FEATURES, (), out, mask, column=first_column(c) + begin)


def first_column(c: ModelConfig) -> int:
    """Of a drafter's features among the columns that the target keeps."""
    return c.kept.first * c.width if c.kept is not None else 0


def norm(name: str, x: Value, out: Value, eps: float, section: Section = Section.BODY) -> Op:
    """Op that writes the RMS norm of x."""
    return Op(Kind.RMS_NORM, (x,), out, vector(name, x.cols), real=eps, section=section)


def project(
    c: ModelConfig, dtype: DType, traits: Traits, layer: int, h: Value, angles: Value
) -> Iterator[Op]:
    """Ops that project, rotate and cache; the last one writes the queries."""
    at = f"layers.{layer}."
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    projected = []
    for name, rows in (("q", queries), ("k", keys), ("v", keys)):
        y = Value(f"{at}{name}_raw", rows, DType.F32)
        bias = (vector(f"{at}{name}_bias", rows),) if traits.qkv_bias else ()
        weight = matrix(at + name, rows, c.width, dtype)
        yield Op(Kind.LINEAR, (h,), y, weight, vectors=bias)
        projected.append(y)
    yield rotate(c, dtype, traits, layer, (*projected, angles))


def rotate(
    c: ModelConfig, dtype: DType, traits: Traits, layer: int, inputs: tuple[Value, ...]
) -> Op:
    """Op that rotates projections and caches keys and values; it writes the queries."""
    at = f"layers.{layer}."
    normed = "qk" if traits.head_norm else ""
    gains = tuple(vector(f"{at}{name}_norm", c.head_dim) for name in normed)
    eps = c.norm_eps if gains else 0.0
    q = Value(at + "q", c.heads * c.head_dim, dtype)
    return Op(Kind.ROPE_KV, inputs, q, cache=layer, heads=c.heads, real=eps, vectors=gains)


def attention(
    c: ModelConfig, dtype: DType, traits: Traits, layer: int, x: Value, angles: Value
) -> Iterator[Op]:
    """The attention of a layer, its input added; the last op writes the sum."""
    at = f"layers.{layer}."
    h = Value(at + "attention_in", c.width, dtype)
    yield norm(at + "attention_norm", x, h, c.norm_eps)
    projection = list(project(c, dtype, traits, layer, h, angles))
    yield from projection
    yield from attend(c, dtype, layer, x, projection[-1].out)


def attend(c: ModelConfig, dtype: DType, layer: int, x: Value, q: Value) -> Iterator[Op]:
    """Ops of x + attention of rotated queries; the last one writes the sum."""
    at = f"layers.{layer}."
    queries = c.heads * c.head_dim
    mixed = Value(at + "attention", queries, dtype)
    scale = c.head_dim**-0.5
    yield Op(Kind.ATTENTION, (q,), mixed, cache=layer, heads=c.heads, real=scale)
    y = Value(at + "attention_out", c.width, DType.F32)
    yield Op(Kind.LINEAR, (mixed,), y, matrix(at + "o", c.width, queries, dtype))
    yield Op(Kind.ADD, (x, y), Value(at + "x_attention", c.width, DType.F32))


def feed_forward(c: ModelConfig, dtype: DType, layer: int, x: Value) -> Iterator[Op]:
    """The feed-forward of a layer, its input added; the last op writes the sum."""
    at = f"layers.{layer}."
    h = Value(at + "ffn_in", c.width, dtype)
    yield norm(at + "ffn_norm", x, h, c.norm_eps)
    gate, up = (Value(f"{at}{name}_raw", c.ffn, DType.F32) for name in ("gate", "up"))
    yield Op(Kind.LINEAR, (h,), gate, matrix(at + "gate", c.ffn, c.width, dtype))
    yield Op(Kind.LINEAR, (h,), up, matrix(at + "up", c.ffn, c.width, dtype))
    middle = Value(at + "ffn", c.ffn, dtype)
    yield Op(Kind.SWIGLU, (gate, up), middle)
    y = Value(at + "ffn_out", c.width, DType.F32)
    yield Op(Kind.LINEAR, (middle,), y, matrix(at + "down", c.width, c.ffn, dtype))
    yield Op(Kind.ADD, (x, y), Value(at + "x_ffn", c.width, DType.F32))


def table_and_head(c: ModelConfig, dtype: DType) -> tuple[Weight, Weight]:
    """Embedding and output matrix; a tied one is stored once, packed for the head."""
    embedding = Parameter("embed", (c.vocab, c.width))
    # The embed op reads both layouts.
    table = Weight("embed", (embedding,), dtype, Layout.PANELS16 if c.tied else Layout.ROW_MAJOR)
    return table, table if c.tied else matrix("head", c.vocab, c.width, dtype)


def rotation(c: ModelConfig) -> Op:
    """Op that writes the angles of every row's position."""
    frequencies = Constant("inv_freq", tuple(inverse_frequencies(c.rope, c.head_dim).tolist()))
    angles = Value("angles", c.head_dim, DType.F32)
    return Op(Kind.ROPE_ANGLES, (), angles, frequencies, real=1.0)


def logits(c: ModelConfig, dtype: DType, head: Weight, x: Value) -> Iterator[Op]:
    """Ops of the head, behind the last layer's x."""
    h = Value("final_in", c.width, dtype)
    yield norm("final_norm", x, h, c.norm_eps, Section.HEAD)
    y = Value("logits", c.vocab, DType.F32)
    yield Op(Kind.LINEAR, (h,), y, head, section=Section.HEAD)


def caches(c: ModelConfig, dtype: DType) -> tuple[Cache, ...]:
    """The key/value caches of all layers."""
    windows = c.windows or (0,) * c.layers
    return tuple(Cache(c.kv_heads, c.head_dim, dtype, window) for window in windows)

"""The decoder that all architectures here share, with the parts in which they differ.

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
    Graph,
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


def _matrix(name: str, rows: int, cols: int, dtype: DType) -> Weight:
    return Weight(name, (Parameter(name, (rows, cols)),), dtype, Layout.PANELS16)


def _vector(name: str, cols: int) -> Weight:
    parts = (Parameter(name, (cols,)),)
    return Weight(name, parts, DType.F32, Layout.ROW_MAJOR, Arrangement.JOINED)


def _norm(name: str, x: Value, out: Value, eps: float, section: Section = Section.BODY) -> Op:
    return Op(Kind.RMS_NORM, (x,), out, _vector(name, x.cols), real=eps, section=section)


def _project(
    c: ModelConfig, dtype: DType, traits: Traits, layer: int, h: Value, angles: Value
) -> Iterator[Op]:
    """Ops that project, rotate and cache; the last one writes the queries."""
    at = f"layers.{layer}."
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    projected = []
    for name, rows in (("q", queries), ("k", keys), ("v", keys)):
        y = Value(f"{at}{name}_raw", rows, DType.F32)
        bias = (_vector(f"{at}{name}_bias", rows),) if traits.qkv_bias else ()
        matrix = _matrix(at + name, rows, c.width, dtype)
        yield Op(Kind.LINEAR, (h,), y, matrix, vectors=bias)
        projected.append(y)
    normed = "qk" if traits.head_norm else ""
    gains = tuple(_vector(f"{at}{name}_norm", c.head_dim) for name in normed)
    eps = c.norm_eps if gains else 0.0
    q = Value(at + "q", queries, dtype)
    inputs = (*projected, angles)
    yield Op(Kind.ROPE_KV, inputs, q, cache=layer, heads=c.heads, real=eps, vectors=gains)


def _attention(
    c: ModelConfig, dtype: DType, traits: Traits, layer: int, x: Value, angles: Value
) -> Iterator[Op]:
    """Ops of x + attention(norm(x)); the last one writes the sum."""
    at = f"layers.{layer}."
    queries = c.heads * c.head_dim
    h = Value(at + "attention_in", c.width, dtype)
    yield _norm(at + "attention_norm", x, h, c.norm_eps)
    projection = list(_project(c, dtype, traits, layer, h, angles))
    yield from projection
    q = projection[-1].out
    mixed = Value(at + "attention", queries, dtype)
    scale = c.head_dim**-0.5
    yield Op(Kind.ATTENTION, (q,), mixed, cache=layer, heads=c.heads, real=scale)
    y = Value(at + "attention_out", c.width, DType.F32)
    yield Op(Kind.LINEAR, (mixed,), y, _matrix(at + "o", c.width, queries, dtype))
    yield Op(Kind.ADD, (x, y), Value(at + "x_attention", c.width, DType.F32))


def _feed_forward(c: ModelConfig, dtype: DType, layer: int, x: Value) -> Iterator[Op]:
    """Ops of x + feed_forward(norm(x)); the last one writes the sum."""
    at = f"layers.{layer}."
    h = Value(at + "ffn_in", c.width, dtype)
    yield _norm(at + "ffn_norm", x, h, c.norm_eps)
    gate, up = (Value(f"{at}{name}_raw", c.ffn, DType.F32) for name in ("gate", "up"))
    yield Op(Kind.LINEAR, (h,), gate, _matrix(at + "gate", c.ffn, c.width, dtype))
    yield Op(Kind.LINEAR, (h,), up, _matrix(at + "up", c.ffn, c.width, dtype))
    middle = Value(at + "ffn", c.ffn, dtype)
    yield Op(Kind.SWIGLU, (gate, up), middle)
    y = Value(at + "ffn_out", c.width, DType.F32)
    yield Op(Kind.LINEAR, (middle,), y, _matrix(at + "down", c.width, c.ffn, dtype))
    yield Op(Kind.ADD, (x, y), Value(at + "x_ffn", c.width, DType.F32))


def decoder(config: ModelConfig, dtype: DType, traits: Traits) -> Graph:
    """Graph of a step, unfused; weights, caches and the inputs of matmuls in `dtype`."""
    c = config
    embedding = Parameter("embed", (c.vocab, c.width))
    # A tied matrix is stored once, packed for the head; the embed op reads both layouts.
    table = Weight("embed", (embedding,), dtype, Layout.PANELS16 if c.tied else Layout.ROW_MAJOR)
    head = table if c.tied else _matrix("head", c.vocab, c.width, dtype)
    frequencies = Constant("inv_freq", tuple(inverse_frequencies(c.rope, c.head_dim).tolist()))
    x = Value("x", c.width, DType.F32)
    angles = Value("angles", c.head_dim, DType.F32)
    ops = [
        Op(Kind.EMBED, (), x, table),
        Op(Kind.ROPE_ANGLES, (), angles, frequencies, real=1.0),
    ]
    for layer in range(c.layers):
        ops += _attention(c, dtype, traits, layer, ops[-1].out if layer else x, angles)
        ops += _feed_forward(c, dtype, layer, ops[-1].out)
    h = Value("final_in", c.width, dtype)
    ops.append(_norm("final_norm", ops[-1].out, h, c.norm_eps, Section.HEAD))
    logits = Value("logits", c.vocab, DType.F32)
    ops.append(Op(Kind.LINEAR, (h,), logits, head, section=Section.HEAD))
    windows = c.windows or (0,) * c.layers
    caches = tuple(Cache(c.kv_heads, c.head_dim, dtype, window) for window in windows)
    return Graph(tuple(ops), caches)

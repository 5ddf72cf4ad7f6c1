"""Llama: pre-norm attention with rotary embedding and grouped queries, SwiGLU feed-forward.

Touvron et al. 2023 (arXiv 2302.13971), section 2.2; the computation of LlamaForCausalLM.
"""

from collections.abc import Iterator

from specrt.build.config import ModelConfig
from specrt.build.graph import (
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


def _matrix(name: str, rows: int, cols: int, dtype: DType) -> Weight:
    return Weight(name, (Parameter(name, (rows, cols)),), dtype, Layout.PANELS16)


def _norm(name: str, x: Value, out: Value, eps: float, section: Section = Section.BODY) -> Op:
    gain = Weight(name, (Parameter(name, (x.cols,)),), DType.F32, Layout.ROW_MAJOR)
    return Op(Kind.RMS_NORM, (x,), out, gain, real=eps, section=section)


def _attention(c: ModelConfig, dtype: DType, layer: int, x: Value, angles: Value) -> Iterator[Op]:
    """Ops of x + attention(norm(x)); the last one writes the sum."""
    at = f"layers.{layer}."
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    h = Value(at + "attention_in", c.width, dtype)
    yield _norm(at + "attention_norm", x, h, c.norm_eps)
    projected = []
    for name, rows in (("q", queries), ("k", keys), ("v", keys)):
        y = Value(f"{at}{name}_raw", rows, DType.F32)
        yield Op(Kind.LINEAR, (h,), y, _matrix(at + name, rows, c.width, dtype))
        projected.append(y)
    q = Value(at + "q", queries, dtype)
    yield Op(Kind.ROPE_KV, (*projected, angles), q, cache=layer, heads=c.heads)
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


def graph(config: ModelConfig, dtype: DType) -> Graph:
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
        ops += _attention(c, dtype, layer, ops[-1].out if layer else x, angles)
        ops += _feed_forward(c, dtype, layer, ops[-1].out)
    h = Value("final_in", c.width, dtype)
    ops.append(_norm("final_norm", ops[-1].out, h, c.norm_eps, Section.HEAD))
    logits = Value("logits", c.vocab, DType.F32)
    ops.append(Op(Kind.LINEAR, (h,), logits, head, section=Section.HEAD))
    return Graph(tuple(ops), (Cache(c.kv_heads, c.head_dim, dtype),) * c.layers)

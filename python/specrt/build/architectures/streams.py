"""Layers in which the rows of a decoder have streams: Speculative Streaming (arXiv 2402.11131).

Below them a step has the tokens that it feeds. Then rows are pruned, if a step asks for it, and
each of the others gets streams: copies of itself plus an embedding, for the tokens further on. The
layers have the same weights for both; streams may have low-rank additions of their own (LoRA).
"""

from collections.abc import Iterator
from dataclasses import replace

from specrt.build.architectures import blocks
from specrt.build.architectures.blocks import Traits
from specrt.build.config import ModelConfig, Streaming
from specrt.build.graph import (
    Arrangement,
    DType,
    Kind,
    Layout,
    Op,
    Parameter,
    Rows,
    Value,
    Weight,
)

ADAPTER = "streaming."  # what the names of an adapter's parameters begin with


def _low_rank(
    dtype: DType, name: str, rank: int, x: Value, y: Value, rows: Rows
) -> tuple[Op, Op, Op]:
    """Ops of y + B (A x); the last one writes the sum."""
    low = Value(f"{name}.low", rank, dtype)
    added = Value(f"{name}.added", y.cols, DType.F32)
    a = blocks.matrix(f"{name}.lora_a", rank, x.cols, dtype)
    b = blocks.matrix(f"{name}.lora_b", y.cols, rank, dtype)
    return (
        Op(Kind.LINEAR, (x,), low, a, rows=rows),
        Op(Kind.LINEAR, (low,), added, b, rows=rows),
        Op(Kind.ADD, (y, added), Value(f"{name}.sum", y.cols, DType.F32)),
    )


def _adapted(s: Streaming, dtype: DType, layer: int, module: str, x: Value, y: Value) -> list[Op]:
    """Ops that add the LoRA of a module to the streams' rows of y; none if it has none."""
    if module not in s.lora_modules:
        return []
    name = f"{ADAPTER}layers.{layer}.{module}"
    return list(_low_rank(dtype, name, s.lora_rank, x, y, Rows.STREAMS))


def _last(ops: list[Op], value: Value) -> Value:
    return ops[-1].out if ops else value


def begin(c: ModelConfig, s: Streaming, dtype: DType, x: Value, head: Weight) -> Iterator[Op]:
    """Ops between the layers without and those with streams; the last one writes the rows."""
    rows = Rows.SCORED
    exits = Value("exit", c.width, DType.F32)
    inputs = Value("exit_in", c.width, dtype)
    yield replace(blocks.norm("final_norm", x, exits, c.norm_eps), rows=rows)
    yield replace(blocks.norm("final_norm", x, inputs, c.norm_eps), rows=rows)
    scored = _low_rank(dtype, f"{ADAPTER}prune", s.prune_rank, inputs, exits, rows)
    yield from scored
    yield Op(Kind.PLAN_STREAMS, (scored[-1].out,), scored[-1].out, head)
    name = f"{ADAPTER}stream_embeddings"
    parts = (Parameter(name, (s.streams, c.width)),)
    embeddings = Weight(name, parts, DType.F32, Layout.ROW_MAJOR)
    yield Op(Kind.INSERT_STREAMS, (x,), Value("x_streams", c.width, DType.F32), embeddings)


def _attention(
    c: ModelConfig, s: Streaming, dtype: DType, traits: Traits, layer: int, x: Value, angles: Value
) -> Iterator[Op]:
    """The attention of a layer, its input added; the last op writes the sum."""
    at = f"layers.{layer}."
    h = Value(at + "attention_in", c.width, dtype)
    yield blocks.norm(at + "attention_norm", x, h, c.norm_eps)
    keys = c.kv_heads * c.head_dim
    heads = (("q", c.heads * c.head_dim), ("k", keys), ("v", keys))
    parts = tuple(Parameter(at + name, (rows, c.width)) for name, rows in heads)
    qkv = Value(at + "qkv", sum(rows for _, rows in heads), DType.F32)
    biases = tuple(Parameter(f"{at}{name}_bias", (rows,)) for name, rows in heads)
    bias = Weight(at + "qkv_bias", biases, DType.F32, Layout.ROW_MAJOR, Arrangement.JOINED)
    weight = Weight(at + "qkv", parts, dtype, Layout.PANELS16)
    vectors = (bias,) if traits.qkv_bias else ()
    yield Op(Kind.LINEAR, (h,), qkv, weight, vectors=vectors)
    adapted = _adapted(s, dtype, layer, "qkv", h, qkv)
    yield from adapted
    rotate = blocks.rotate(c, dtype, traits, layer, (_last(adapted, qkv), angles))
    yield rotate
    attend = list(blocks.attend(c, dtype, layer, x, rotate.out))
    yield from attend
    yield from _adapted(s, dtype, layer, "o", attend[0].out, attend[-1].out)


def _feed_forward(c: ModelConfig, s: Streaming, dtype: DType, layer: int, x: Value) -> Iterator[Op]:
    """The feed-forward of a layer, its input added; the last op writes the sum."""
    ops = list(blocks.feed_forward(c, dtype, layer, x))
    middle = next(op.out for op in ops if op.kind is Kind.SWIGLU)
    yield from ops
    yield from _adapted(s, dtype, layer, "down", middle, ops[-1].out)


def layer_ops(
    c: ModelConfig, s: Streaming, dtype: DType, traits: Traits, layer: int, x: Value, angles: Value
) -> list[Op]:
    """A layer with streams; the last op writes its output."""
    ops = list(_attention(c, s, dtype, traits, layer, x, angles))
    return ops + list(_feed_forward(c, s, dtype, layer, ops[-1].out))

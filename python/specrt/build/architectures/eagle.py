"""EAGLE (arXiv 2401.15077): a decoder over pairs of a token and the target's state before it.

A row is fc([embedding of the token; state]); the first layer has no norm before its attention. What
comes out is an estimate of the target's next last hidden state: the target's head reads it, and so
does the next step, where the target has not been yet.
"""

from collections.abc import Iterator

from specrt.build.architectures import blocks
from specrt.build.architectures.blocks import Traits
from specrt.build.config import Eagle1, ModelConfig
from specrt.build.graph import DType, Graph, Kind, Layout, Missing, Op, Section, Value, Weight

TRAITS = Traits()


def _convert(name: str, x: Value, dtype: DType, section: Section = Section.BODY) -> Op:
    """Op that makes a row an input of products."""
    return Op(Kind.CONVERT, (x,), Value(name, x.cols, dtype), section=section)


def _estimate_column(c: ModelConfig) -> int:
    return blocks.first_column(c) + c.width


def _pairs(c: ModelConfig, eagle: Eagle1, dtype: DType, table: Weight) -> Iterator[Op]:
    """Ops of the rows that enter the first layer; the last one writes them."""
    token = Value("token", c.width, DType.F32)
    yield Op(Kind.EMBED, (), token, table)
    converted = _convert("token_in", token, dtype)
    yield converted
    state = Value("features", c.width, dtype)
    column = blocks.first_column(c)
    yield Op(Kind.LOAD_FEATURES, (), state, column=column, missing=Missing.LAST)
    estimates = _estimate_column(c)
    yield Op(Kind.LOAD_FEATURES, (), state, column=estimates, missing=Missing.ESTIMATES)
    bias = (blocks.vector("fc_bias", c.width),) if eagle.fc_bias else ()
    sides = []
    for name, x, begin, vectors in (
        ("token", converted.out, 0, ()),
        ("state", state, c.width, bias),
    ):
        span = begin, begin + c.width
        weight = blocks.columns(f"fc_{name}", (("fc", c.width),), 2 * c.width, span, dtype)
        y = Value(f"hidden_{name}", c.width, DType.F32)
        yield Op(Kind.LINEAR, (x,), y, weight, vectors=vectors)
        sides.append(y)
    yield Op(Kind.ADD, (sides[0], sides[1]), Value("hidden", c.width, DType.F32))


def _first_attention(c: ModelConfig, dtype: DType, x: Value, angles: Value) -> Iterator[Op]:
    """The first layer's attention, its input added; the last op writes the sum."""
    converted = _convert("layers.0.attention_in", x, dtype)
    yield converted
    projection = list(blocks.project(c, dtype, TRAITS, 0, converted.out, angles))
    yield from projection
    yield from blocks.attend(c, dtype, 0, x, projection[-1].out)


def graph(config: ModelConfig, eagle: Eagle1, dtype: DType) -> Graph:
    """Graph of a step, unfused; weights, caches, features and inputs of matmuls in `dtype`."""
    c = config
    rotation = blocks.rotation(c)
    table = Weight("embed", blocks.table_and_head(c, dtype)[0].parts, dtype, Layout.ROW_MAJOR)
    ops: list[Op] = [rotation, *_pairs(c, eagle, dtype, table)]
    ops += _first_attention(c, dtype, ops[-1].out, rotation.out)
    ops += blocks.feed_forward(c, dtype, 0, ops[-1].out)
    for layer in range(1, c.layers):
        ops += blocks.attention(c, dtype, TRAITS, layer, ops[-1].out, rotation.out)
        ops += blocks.feed_forward(c, dtype, layer, ops[-1].out)
    x, column = ops[-1].out, _estimate_column(c)
    ops.append(Op(Kind.KEEP_FEATURES, (x,), x, column=column, ahead=1, section=Section.HEAD))
    ops.append(_convert("final_in", x, dtype, Section.HEAD))
    head = blocks.matrix("head", c.vocab, c.width, dtype)
    y = Value("logits", c.vocab, DType.F32)
    ops.append(Op(Kind.LINEAR, (ops[-1].out,), y, head, section=Section.HEAD))
    return Graph(tuple(ops), blocks.caches(c, dtype))

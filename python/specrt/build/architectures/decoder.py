"""The decoder that all architectures here share."""

from collections.abc import Iterator
from dataclasses import replace

from specrt.build.architectures import blocks, streams
from specrt.build.architectures.blocks import Traits
from specrt.build.config import OUTPUT, ModelConfig
from specrt.build.graph import DType, Graph, Kind, Op, Value


def _keep(c: ModelConfig, layer: int, x: Value) -> Iterator[Op]:
    """Ops that leave the residual before a layer for drafters that ask for it."""
    for place, kept in enumerate(c.kept_layers):
        if kept == layer:
            yield Op(Kind.KEEP_FEATURES, (x,), x, column=place * c.width)


def _keep_output(c: ModelConfig, x: Value) -> Iterator[Op]:
    """Ops that leave what the head reads of every row; the head itself runs for few of them."""
    if OUTPUT in c.kept_layers:
        output = Value("output", c.width, DType.F32)
        yield blocks.norm("final_norm", x, output, c.norm_eps)
        yield from _keep(c, OUTPUT, output)


def decoder(config: ModelConfig, dtype: DType, traits: Traits) -> Graph:
    """Graph of a step, unfused; weights, caches and the inputs of matmuls in `dtype`."""
    c = config
    table, head = blocks.table_and_head(c, dtype)
    x = Value("x", c.width, DType.F32)
    rotation = blocks.rotation(c)
    ops = [Op(Kind.EMBED, (), x, table), rotation]
    first_streamed = c.layers - (c.streaming.layers if c.streaming else 0)
    for layer in range(first_streamed):
        ops += _keep(c, layer, x)
        ops += blocks.attention(c, dtype, traits, layer, x, rotation.out)
        ops += blocks.feed_forward(c, dtype, layer, ops[-1].out)
        x = ops[-1].out
    if c.streaming:
        ops += streams.begin(c, c.streaming, dtype, x, head)
        x = ops[-1].out
        rotation = replace(rotation, out=replace(rotation.out, name="stream_angles"))
        ops.append(rotation)
        for layer in range(first_streamed, c.layers):
            ops += _keep(c, layer, x)
            ops += streams.layer_ops(c, c.streaming, dtype, traits, layer, x, rotation.out)
            x = ops[-1].out
    ops += _keep(c, c.layers, x)
    ops += _keep_output(c, x)
    ops += blocks.logits(c, dtype, head, x)
    return Graph(tuple(ops), blocks.caches(c, dtype))

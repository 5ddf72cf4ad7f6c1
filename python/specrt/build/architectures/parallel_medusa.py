"""The Medusa form of ParallelSpec (arXiv 2410.05589): a decoder over the target's last states.

A row is the target's last hidden state at a position, or a learned vector for a mask; there are no
tokens. The head is the target's.
"""

from specrt.build.architectures import blocks
from specrt.build.architectures.blocks import Traits
from specrt.build.config import ModelConfig
from specrt.build.graph import DType, Graph, Op

TRAITS = Traits()


def graph(config: ModelConfig, dtype: DType) -> Graph:
    """Graph of a step, unfused; weights, caches, features and inputs of matmuls in `dtype`."""
    c = config
    rotation = blocks.rotation(c)
    ops: list[Op] = [rotation, blocks.load_features(c, (0, c.width), DType.F32, c.width)]
    for layer in range(c.layers):
        ops += blocks.attention(c, dtype, TRAITS, layer, ops[-1].out, rotation.out)
        ops += blocks.feed_forward(c, dtype, layer, ops[-1].out)
    head = blocks.matrix("head", c.vocab, c.width, dtype)
    ops += blocks.logits(c, dtype, head, ops[-1].out)
    return Graph(tuple(ops), blocks.caches(c, dtype))

"""Medusa (arXiv 2401.10774): a head for each token over the target's last hidden state.

A head is a few blocks x + silu(W x + b) and an output matrix of its own. Each runs for one row, the
one that drafts its token; all rows of a draft have the state of the last committed token.
"""

from collections.abc import Iterator
from dataclasses import replace

from specrt.build.architectures import blocks
from specrt.build.config import Medusa, ModelConfig
from specrt.build.graph import DType, Epilogue, Graph, Kind, Missing, Op, Rows, Section, Value


def _head(c: ModelConfig, medusa: Medusa, dtype: DType, head: int, x: Value) -> Iterator[Op]:
    """Ops of one head; the last one writes its logits."""
    at = f"medusa.{head}."
    for block in range(medusa.blocks):
        out = Value(f"block.{block}", c.width, dtype)
        weight = blocks.matrix(f"{at}{block}.linear.weight", c.width, c.width, dtype)
        bias = (blocks.vector(f"{at}{block}.linear.bias", c.width),)
        yield Op(Kind.LINEAR, (x,), out, weight, epilogue=Epilogue.SILU_ADD, vectors=bias)
        x = out
    weight = blocks.matrix(f"{at}{medusa.blocks}.weight", c.vocab, c.width, dtype)
    yield Op(Kind.LINEAR, (x,), Value("logits", c.vocab, DType.F32), weight)


def graph(config: ModelConfig, medusa: Medusa, dtype: DType) -> Graph:
    """Graph of a step; weights, features and inputs of matmuls in `dtype`."""
    x = Value("features", config.width, dtype)
    load = Op(
        Kind.LOAD_FEATURES,
        (),
        x,
        column=blocks.first_column(config),
        missing=Missing.LAST,
        section=Section.HEAD,
    )
    heads = (
        replace(op, section=Section.HEAD, rows=Rows.DRAFT, draft=head)
        for head in range(medusa.heads)
        for op in _head(config, medusa, dtype, head, x)
    )
    return Graph((load, *heads), ())

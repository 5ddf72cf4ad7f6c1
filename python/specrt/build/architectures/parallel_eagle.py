"""P-EAGLE: a decoder whose rows are pairs of a token and hidden states of the target before it.

The EAGLE form of ParallelSpec (arXiv 2410.05589), with the layers of EAGLE-3 (arXiv 2503.01840);
the computation of PEagleDraftModel in vLLM's speculators. The first layer projects the embedding
beside the features; each other layer is a plain one.
"""

from collections.abc import Iterator

from specrt.build.architectures import blocks
from specrt.build.architectures.blocks import Traits
from specrt.build.config import Eagle, InputNorm, ModelConfig
from specrt.build.graph import DType, Graph, Kind, Op, Value

TRAITS = {"llama": Traits(), "qwen3": Traits(head_norm=True)}


def _fused_features(c: ModelConfig, eagle: Eagle, dtype: DType) -> Iterator[Op]:
    """Ops of fc(features); the last one writes the hidden state."""
    cols = len(eagle.layers) * c.width
    out = Value("hidden", c.width, DType.F32)
    if eagle.input_norm is not InputNorm.EACH:
        kept = dtype if eagle.input_norm is InputNorm.NONE else DType.F32
        load = blocks.load_features(c, (0, cols), kept, cols)
        yield load
        x = load.out
        if eagle.input_norm is InputNorm.ALL:
            x = Value("features_in", cols, dtype)
            yield blocks.norm("input_norm", load.out, x, c.norm_eps)
        yield Op(Kind.LINEAR, (x,), out, blocks.matrix("fc", c.width, cols, dtype))
        return
    for i in range(len(eagle.layers)):
        span = i * c.width, (i + 1) * c.width
        load = blocks.load_features(c, span, DType.F32, cols)
        x = Value(f"features_in.{i}", c.width, dtype)
        yield load
        yield blocks.norm(f"fc_norm.{i}", load.out, x, c.norm_eps)
        y = Value(f"hidden.{i}", c.width, DType.F32)
        yield Op(
            Kind.LINEAR, (x,), y, blocks.columns(f"fc.{i}", (("fc", c.width),), cols, span, dtype)
        )
        if i:
            total = Value(f"hidden_sum.{i}", c.width, DType.F32)
            yield Op(Kind.ADD, (out, y), total)
            y = total
        out = y


def _pair_attention(
    c: ModelConfig, eagle: Eagle, dtype: DType, token: Value, hidden: Value, angles: Value
) -> Iterator[Op]:
    """Ops of the first layer's attention over [norm(token), norm(hidden)], the residual added."""
    at = "layers.0."
    e, h = (Value(at + name, c.width, dtype) for name in ("token_in", "hidden_in"))
    yield blocks.norm(at + "attention_norm", token, e, c.norm_eps)
    yield blocks.norm(at + "hidden_norm", hidden, h, c.norm_eps)
    residual = hidden
    if eagle.norm_before_residual:
        residual = Value(at + "residual", c.width, DType.F32)
        yield blocks.norm(at + "hidden_norm", hidden, residual, c.norm_eps)
    keys = c.kv_heads * c.head_dim
    parts = ((at + "q", c.heads * c.head_dim), (at + "k", keys), (at + "v", keys))
    rows = sum(count for _, count in parts)
    sides = []
    for name, x, begin in (("token", e, 0), ("hidden", h, c.width)):
        weight = blocks.columns(
            f"{at}qkv_{name}", parts, 2 * c.width, (begin, begin + c.width), dtype
        )
        y = Value(f"{at}qkv_{name}", rows, DType.F32)
        yield Op(Kind.LINEAR, (x,), y, weight)
        sides.append(y)
    qkv = Value(at + "qkv", rows, DType.F32)
    yield Op(Kind.ADD, (sides[0], sides[1]), qkv)
    rotate = blocks.rotate(c, dtype, TRAITS[c.architecture], 0, (qkv, angles))
    yield rotate
    yield from blocks.attend(c, dtype, 0, residual, rotate.out)


def graph(config: ModelConfig, eagle: Eagle, dtype: DType) -> Graph:
    """Graph of a step, unfused; weights, caches, features and inputs of matmuls in `dtype`."""
    c = config
    table, head = blocks.table_and_head(c, dtype)
    token = Value("token", c.width, DType.F32)
    rotation = blocks.rotation(c)
    ops = [Op(Kind.EMBED, (), token, table), rotation]
    ops += _fused_features(c, eagle, dtype)
    ops += _pair_attention(c, eagle, dtype, token, ops[-1].out, rotation.out)
    ops += blocks.feed_forward(c, dtype, 0, ops[-1].out)
    for layer in range(1, c.layers):
        x = ops[-1].out
        ops += blocks.attention(c, dtype, TRAITS[c.architecture], layer, x, rotation.out)
        ops += blocks.feed_forward(c, dtype, layer, ops[-1].out)
    ops += blocks.logits(c, dtype, head, ops[-1].out)
    return Graph(tuple(ops), blocks.caches(c, dtype))

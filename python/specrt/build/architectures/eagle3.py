"""EAGLE-3: a decoder whose rows are pairs of a token and hidden states of the target before it.

EAGLE-3 (arXiv 2503.01840) drafts token by token: its own hidden state stands for what the target
has not computed yet. P-EAGLE, the EAGLE form of ParallelSpec (arXiv 2410.05589), has masks instead
and drafts all at once. The computation is that of vLLM's speculators: the first layer projects the
embedding beside the features, each other layer is a plain one.
"""

from collections.abc import Iterator
from dataclasses import replace

from specrt.build.architectures import blocks
from specrt.build.architectures.blocks import Traits
from specrt.build.config import Eagle, InputNorm, ModelConfig
from specrt.build.graph import (
    Constant,
    DType,
    Graph,
    Kind,
    Missing,
    Op,
    Section,
    Value,
    Weight,
)

TRAITS = {"llama": Traits(), "qwen3": Traits(head_norm=True)}


def _load(c: ModelConfig, eagle: Eagle, span: tuple[int, int], dtype: DType) -> Op:
    """Op that loads columns [begin, end) of what the target computed."""
    if eagle.masks:
        return blocks.load_features(c, span, dtype, len(eagle.read_layers) * c.width)
    out = Value(f"features.{span[0]}", span[1] - span[0], dtype)
    column = blocks.first_column(c) + span[0]
    return Op(Kind.LOAD_FEATURES, (), out, column=column, missing=Missing.LAST)


def _estimate_column(c: ModelConfig, eagle: Eagle) -> int:
    return blocks.first_column(c) + len(eagle.read_layers) * c.width


def _fused_features(c: ModelConfig, eagle: Eagle, dtype: DType) -> Iterator[Op]:
    """Ops of fc(features); the last one writes the hidden state."""
    cols = len(eagle.read_layers) * c.width
    out = Value("hidden", c.width, DType.F32)
    if eagle.input_norm is not InputNorm.EACH:
        kept = dtype if eagle.input_norm is InputNorm.NONE else DType.F32
        load = _load(c, eagle, (0, cols), kept)
        yield load
        x = load.out
        if eagle.input_norm is InputNorm.ALL:
            x = Value("features_in", cols, dtype)
            yield blocks.norm("input_norm", load.out, x, c.norm_eps)
        yield Op(Kind.LINEAR, (x,), out, blocks.matrix("fc", c.width, cols, dtype))
        return
    for i in range(len(eagle.read_layers)):
        span = i * c.width, (i + 1) * c.width
        load = _load(c, eagle, span, DType.F32)
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


def _keep_estimate(c: ModelConfig, eagle: Eagle, x: Value) -> Iterator[Op]:
    """Ops of the head that leave the row's own hidden state for the next step."""
    column = _estimate_column(c, eagle)
    if eagle.norm_output:
        normed = Value("output", c.width, DType.F32)
        yield blocks.norm("final_norm", x, normed, c.norm_eps, Section.HEAD)
        x = normed
    yield Op(Kind.KEEP_FEATURES, (x,), x, column=column, ahead=1, section=Section.HEAD)


def _logits(c: ModelConfig, eagle: Eagle, dtype: DType, head: Weight, x: Value) -> Iterator[Op]:
    """Ops of the head; those of a reduced vocabulary go to the places of their tokens."""
    if not eagle.draft_tokens:
        yield from blocks.logits(c, dtype, head, x)
        return
    reduced = replace(c, vocab=len(eagle.draft_tokens))
    matrix = blocks.matrix("head", reduced.vocab, c.width, dtype)
    *before, product = blocks.logits(reduced, dtype, matrix, x)
    scores = replace(product.out, name="draft_logits")
    yield from before
    yield replace(product, out=scores)
    ids = Constant("draft_tokens", tuple(map(float, eagle.draft_tokens)))
    y = Value("logits", c.vocab, DType.F32)
    yield Op(Kind.SCATTER, (scores,), y, ids, section=Section.HEAD)


def graph(config: ModelConfig, eagle: Eagle, dtype: DType) -> Graph:
    """Graph of a step, unfused; weights, caches, features and inputs of matmuls in `dtype`."""
    c = config
    table, head = blocks.table_and_head(c, dtype)
    token = Value("token", c.width, DType.F32)
    rotation = blocks.rotation(c)
    ops = [Op(Kind.EMBED, (), token, table), rotation]
    ops += _fused_features(c, eagle, dtype)
    hidden = ops[-1].out
    if not eagle.masks:
        column, missing = _estimate_column(c, eagle), Missing.ESTIMATES
        ops.append(Op(Kind.LOAD_FEATURES, (), hidden, column=column, missing=missing))
    ops += _pair_attention(c, eagle, dtype, token, hidden, rotation.out)
    ops += blocks.feed_forward(c, dtype, 0, ops[-1].out)
    for layer in range(1, c.layers):
        x = ops[-1].out
        ops += blocks.attention(c, dtype, TRAITS[c.architecture], layer, x, rotation.out)
        ops += blocks.feed_forward(c, dtype, layer, ops[-1].out)
    x = ops[-1].out
    if not eagle.masks:
        ops += _keep_estimate(c, eagle, x)
    ops += _logits(c, eagle, dtype, head, x)
    return Graph(tuple(ops), blocks.caches(c, dtype))

"""A forward of Llama and its relatives over rows: tokens with a position and what they see.

Source: Touvron et al. 2023 (arXiv 2302.13971), section 2.2, with the conventions of Hugging Face's
LlamaForCausalLM (half-split rotary embedding, names of the weights). Biases of projections and
norms of heads are computed where a checkpoint has them, windows where its config has. There is no
cache: a row list holds the whole sequence, so that chains, trees and mask tokens are all the same
computation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import ops
from .arrays import Floats, Masks
from .hf_folder import LlamaConfig, read_config, read_tensors


@dataclass(frozen=True)
class Numerics:
    """Where a runtime rounds: in its matmuls (x, weight) and when it stores keys and values."""

    linear: Callable[[Floats, Floats], Floats]
    store: Callable[[Floats], Floats]


UNROUNDED = Numerics(linear=ops.linear, store=np.asarray)
BF16_MATMULS = Numerics(linear=ops.linear_bf16, store=np.asarray)
BF16_MATMULS_AND_CACHE = Numerics(linear=ops.linear_bf16, store=ops.bf16_round)


@dataclass(frozen=True)
class Row:
    """One token of a forward. `visible` are indices into the row list, its own included."""

    token: int
    position: int
    visible: frozenset[int]


@dataclass(frozen=True)
class Output:
    """Per row: the residual after the last layer, the same after the last norm, and logits."""

    residual: Floats  # (n, d)
    hidden: Floats  # (n, d)
    logits: Floats  # (n, v)


@dataclass(frozen=True)
class Llama:
    """Weights by their Hugging Face names, all of one dtype."""

    config: LlamaConfig
    weights: dict[str, Floats] = field(repr=False)
    numerics: Numerics = UNROUNDED

    def layer_weight(self, layer: int, name: str) -> Floats:
        """Weight of one layer."""
        return self.weights[f"model.layers.{layer}.{name}.weight"]

    def linear(self, layer: int, name: str, x: Floats) -> Floats:
        """Matmul of rows x with a weight of one layer, and its bias if there is one."""
        y = self.numerics.linear(x, self.layer_weight(layer, name))
        bias = self.weights.get(f"model.layers.{layer}.{name}.bias")
        return y if bias is None else np.asarray(y + bias)

    def head_norm(self, layer: int, name: str, x: Floats) -> Floats:
        """Norm of every head of x (n, heads, e), if there is one."""
        gain = self.weights.get(f"model.layers.{layer}.self_attn.{name}.weight")
        return x if gain is None else ops.rms_norm(x, gain, self.config.eps)

    @property
    def head(self) -> Floats:
        """Output matrix (v, d): its own, or the embedding where the two are tied."""
        name = "model.embed_tokens.weight" if self.config.tied else "lm_head.weight"
        return self.weights[name]


def load(
    folder: Path, dtype: type[np.floating[Any]] = np.float64, numerics: Numerics = UNROUNDED
) -> Llama:
    """Load a Hugging Face folder; computation runs in `dtype`."""
    weights = {name: w.astype(dtype) for name, w in read_tensors(folder).items()}
    return Llama(read_config(folder), weights, numerics)


def chain(tokens: Sequence[int], start: int = 0) -> list[Row]:
    """Rows of a plain causal sequence whose first token has position `start`."""
    return [Row(t, start + i, frozenset(range(i + 1))) for i, t in enumerate(tokens)]


def tree(context: Sequence[int], tokens: Sequence[int], parents: Sequence[int]) -> list[Row]:
    """Rows of a causal context followed by a tree whose nodes stand parents first.

    parents[i] is the index of the parent among `tokens`; -1 hangs the node on the last context
    token. A node's position is its depth behind the context.
    """
    rows = chain(context)
    for i, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
        above = rows[len(context) + parent]
        seen = above.visible | {len(context) + i}
        rows.append(Row(token, above.position + 1, seen))
    return rows


def visibility(rows: Sequence[Row]) -> Masks:
    """Mask (n, n): entry (i, j) says that row i sees row j."""
    return np.array([[j in row.visible for j in range(len(rows))] for row in rows], dtype=np.bool_)


def near(positions: Sequence[int], window: int) -> Masks:
    """Mask (n, n): entry (i, j) says that j's position is in i's window; 0 is no window."""
    distance = np.subtract.outer(np.asarray(positions), np.asarray(positions))
    return np.asarray(distance < window if window else distance == distance)


def attention_block(model: Llama, layer: int, x: Floats, positions: list[int], m: Masks) -> Floats:
    """Self-attention of normalised rows x (n, d), output projection included."""
    config, inverse = model.config, model.config.inverse_frequencies

    def project(name: str, heads: int) -> Floats:
        y = model.linear(layer, f"self_attn.{name}", x)
        return y.reshape(len(x), heads, config.head_size)

    q = model.head_norm(layer, "q_norm", project("q_proj", config.heads))
    q = ops.rope(q, positions, inverse)
    k = model.head_norm(layer, "k_norm", project("k_proj", config.kv_heads))
    k = model.numerics.store(ops.rope(k, positions, inverse))
    v = model.numerics.store(project("v_proj", config.kv_heads))
    m = m & near(positions, config.windows[layer])
    mixed = ops.attention(q, k, v, m).reshape(len(x), -1)
    return model.linear(layer, "self_attn.o_proj", mixed)


def feed_forward_block(model: Llama, layer: int, x: Floats) -> Floats:
    """SwiGLU feed-forward of normalised rows x (n, d)."""
    gate, up = model.linear(layer, "mlp.gate_proj", x), model.linear(layer, "mlp.up_proj", x)
    return model.linear(layer, "mlp.down_proj", ops.swiglu(gate, up))


def forward(model: Llama, rows: Sequence[Row]) -> Output:
    """Run all rows through the model."""
    eps, mask = model.config.eps, visibility(rows)
    positions = [row.position for row in rows]
    x = ops.embed(model.weights["model.embed_tokens.weight"], [row.token for row in rows])
    for layer in range(model.config.layers):
        normed = ops.rms_norm(x, model.layer_weight(layer, "input_layernorm"), eps)
        x = x + attention_block(model, layer, normed, positions, mask)
        normed = ops.rms_norm(x, model.layer_weight(layer, "post_attention_layernorm"), eps)
        x = x + feed_forward_block(model, layer, normed)
    hidden = ops.rms_norm(x, model.weights["model.norm.weight"], eps)
    return Output(residual=x, hidden=hidden, logits=model.numerics.linear(hidden, model.head))

"""Tiny random EAGLE drafters: their folders, and a forward in PyTorch.

Source: EAGLE (arXiv 2401.15077) and the tensors of its published checkpoints. Pair p joins token
p + 1 with the target's last hidden state of position p, and gives an estimate of that of p + 1,
which the target's head reads. There is no cache.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import linear, silu

from .parallel_eagle import attention, rms_norm
from .tiny_eagle import Tensors
from .tiny_llama import TinyLlama
from .tiny_llama import config as llama_config


@dataclass(frozen=True)
class TinyEagle1:
    """A drafter of the given layers, with the target's width and tokens."""

    decoder: TinyLlama
    bias: bool = True
    seed: int = 12


def weights(model: TinyEagle1) -> Tensors:
    """Random weights by their stored names; outputs about as large as the normed states."""
    c, width = model.decoder, model.decoder.hidden
    random = torch.Generator().manual_seed(model.seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        values: Tensor = scale * torch.randn(shape, generator=random)
        return values

    def matrix(rows: int, cols: int) -> Tensor:
        return draw(rows, cols, scale=cols**-0.5)

    found = {"embed_tokens.weight": draw(c.vocab, width), "fc.weight": matrix(width, 2 * width)}
    if model.bias:
        found["fc.bias"] = draw(width, scale=0.1)
    for layer in range(c.layers):
        at = f"layers.{layer}."
        for name, heads in (("q", c.heads), ("k", c.kv_heads), ("v", c.kv_heads)):
            found[f"{at}self_attn.{name}_proj.weight"] = matrix(heads * c.head_dim, width)
        found[f"{at}self_attn.o_proj.weight"] = matrix(width, c.heads * c.head_dim)
        found |= {f"{at}mlp.{name}_proj.weight": matrix(c.ffn, width) for name in ("gate", "up")}
        found[f"{at}mlp.down_proj.weight"] = matrix(width, c.ffn)
        if layer > 0:
            found[f"{at}input_layernorm.weight"] = 1 + draw(width, scale=0.1)
        found[f"{at}post_attention_layernorm.weight"] = 1 + draw(width, scale=0.1)
    return found


def write_folder(
    folder: Path, model: TinyEagle1, tensors: Tensors | None = None, **changes: object
) -> Path:
    """Write config, with `changes`, and weights (those of `weights` unless given)."""
    folder.mkdir(parents=True)
    config = {**llama_config(model.decoder), "tie_word_embeddings": False, **changes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights(model) if tensors is None else tensors, folder / "model.safetensors")
    return folder


def estimates(model: TinyEagle1, w: Tensors, tokens: Tensor, states: Tensor) -> Tensor:
    """Estimates (n, width) of pairs of `tokens` (n,) and `states` (n, width)."""
    positions = torch.arange(len(tokens))
    sees = positions[None] <= positions[:, None]
    pairs = torch.cat([w["embed_tokens.weight"][tokens], states], dim=-1)
    x = linear(pairs, w["fc.weight"], w.get("fc.bias"))
    for layer in range(model.decoder.layers):
        at = f"layers.{layer}."
        normed = x if layer == 0 else rms_norm(x, w[f"{at}input_layernorm.weight"])
        x = x + attention(model.decoder, w, at, normed, positions, sees)
        normed = rms_norm(x, w[f"{at}post_attention_layernorm.weight"])
        gate = silu(linear(normed, w[f"{at}mlp.gate_proj.weight"]))
        up = linear(normed, w[f"{at}mlp.up_proj.weight"])
        x = x + linear(gate * up, w[f"{at}mlp.down_proj.weight"])
    return x


def draft_scores(
    model: TinyEagle1,
    w: Tensors,
    tokens: Sequence[int],
    states: Tensor,
    head: Tensor,
    count: int,
    path: Sequence[int] = (),
) -> Tensor:
    """Logits (count, vocab) of tokens drafted behind `tokens`, from the estimates of those before.

    `states` are the target's of all tokens but the last; `head` (vocab, width) is its matrix. The
    drafted tokens are those of `path`, and behind it the likeliest.
    """
    fed, known = list(tokens[1:]), states
    found: list[Tensor] = []
    for i in range(count):
        last = estimates(model, w, torch.tensor(fed), known)[-1]
        found.append(linear(last, head))
        fed.append(path[i] if i < len(path) else int(found[-1].argmax()))
        known = torch.cat([known, last[None]])
    return torch.stack(found)

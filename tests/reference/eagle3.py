"""Tiny random EAGLE-3 drafters: their folders in both published forms, and a forward in PyTorch.

Source: EAGLE-3 (arXiv 2503.01840) and the tensors of its published checkpoints. Pair p joins token
p + 1 with hidden states of the target at position p, brought to its width by `fc`; behind the
committed tokens the drafter's own hidden state of pair p - 1 stands in place of that. There is no
cache.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import linear, silu

from .parallel_eagle import attention, hidden_state, rms_norm
from .tiny_eagle import Tensors, TinyEagle, weights
from .tiny_eagle import config as speculators_config
from .tiny_llama import config as llama_config


@dataclass(frozen=True)
class TinyEagle3:
    """A drafter; `tokens` are those of its reduced vocabulary, none for all."""

    base: TinyEagle
    norm_output: bool = False
    tokens: tuple[int, ...] = ()


def tensors_of(model: TinyEagle3) -> Tensors:
    """Random weights by the names of vLLM's speculators."""
    found = {name: each for name, each in weights(model.base).items() if name != "mask_hidden"}
    if model.tokens:
        count = len(model.tokens)
        found["lm_head.weight"] = found["lm_head.weight"][:count].clone()
        found["d2t"] = torch.tensor(model.tokens) - torch.arange(count)
        known = torch.zeros(model.base.target.vocab, dtype=torch.bool)
        known[list(model.tokens)] = True
        found["t2d"] = known
    return found


def write_speculators(folder: Path, model: TinyEagle3, tensors: Tensors) -> Path:
    """Write a folder in the form of vLLM's speculators."""
    config = speculators_config(model.base) | {
        "architectures": ["Eagle3DraftModel"],
        "draft_vocab_size": len(model.tokens) or model.base.target.vocab,
        "norm_output": model.norm_output,
        "speculators_model_type": "eagle3",
    }
    del config["mask_token_id"]
    return _write(folder, config, tensors)


def write_published(folder: Path, model: TinyEagle3, tensors: Tensors) -> Path:
    """Write a folder in the form of SafeAILab and SpecForge."""
    config = llama_config(model.base.decoder) | {
        "architectures": ["LlamaForCausalLMEagle3"],
        "draft_vocab_size": len(model.tokens) or model.base.target.vocab,
        "tie_word_embeddings": False,
    }
    named = {name.replace("layers.0.", "midlayer."): each for name, each in tensors.items()}
    return _write(folder, config, named)


def _write(folder: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder


def own_states(model: TinyEagle3, w: Tensors, tokens: Tensor, hidden: Tensor) -> Tensor:
    """The drafter's hidden states (n, width) of pairs of `tokens` (n,) and `hidden` (n, width)."""
    base = model.base
    positions = torch.arange(len(tokens))
    sees = positions[None] <= positions[:, None]
    for layer in range(base.decoder.layers):
        at = f"layers.{layer}."
        if layer == 0:
            state = rms_norm(hidden, w["layers.0.hidden_norm.weight"])
            token = rms_norm(w["embed_tokens.weight"][tokens], w[f"{at}input_layernorm.weight"])
            normed = torch.cat([token, state], dim=-1)
            x = state if base.norm_before_residual else hidden
        else:
            normed = rms_norm(x, w[f"{at}input_layernorm.weight"])
        x = x + attention(base.decoder, w, at, normed, positions, sees)
        normed = rms_norm(x, w[f"{at}post_attention_layernorm.weight"])
        gate = silu(linear(normed, w[f"{at}mlp.gate_proj.weight"]))
        up = linear(normed, w[f"{at}mlp.up_proj.weight"])
        x = x + linear(gate * up, w[f"{at}mlp.down_proj.weight"])
    return x


def scores(model: TinyEagle3, w: Tensors, states: Tensor) -> Tensor:
    """Logits (n, vocab) of hidden states; minus infinity for tokens that it does not know."""
    known: Tensor = linear(rms_norm(states, w["norm.weight"]), w["lm_head.weight"])
    if not model.tokens:
        return known
    every = torch.full((len(known), model.base.target.vocab), float("-inf"))
    every[:, list(model.tokens)] = known
    return every


def draft_scores(
    model: TinyEagle3,
    w: Tensors,
    tokens: Sequence[int],
    features: Tensor,
    count: int,
    path: Sequence[int] = (),
) -> Tensor:
    """Logits (count, vocab) of tokens drafted behind `tokens`, each behind those before it.

    `features` are the target's of all tokens but the last. The drafted tokens are those of `path`,
    and behind it the likeliest.
    """
    fed, hidden = list(tokens[1:]), hidden_state(model.base, w, features)
    found: list[Tensor] = []
    for i in range(count):
        last = own_states(model, w, torch.tensor(fed), hidden)[-1:]
        found.append(scores(model, w, last)[0])
        fed.append(path[i] if i < len(path) else int(found[-1].argmax()))
        own = rms_norm(last, w["norm.weight"]) if model.norm_output else last
        hidden = torch.cat([hidden, own])
    return torch.stack(found)

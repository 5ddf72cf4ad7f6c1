"""Decoder layers that a drafter has of its own, and what it takes over from its target.

Shape letters: b sequences, s elements, t inputs of the target, d width, f features, v vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PretrainedConfig, PreTrainedModel

from specrt.build.hf import ARCHITECTURES


def layer_config(target: PretrainedConfig, layers: int) -> LlamaConfig:
    """Decoder layers of the target's sizes; biases and windows are not taken over.

    Raises:
        ValueError: the target is of an architecture that specrt does not know.
    """
    check_architecture(target)
    heads: int = target.num_attention_heads
    return LlamaConfig(
        vocab_size=target.vocab_size,
        hidden_size=target.hidden_size,
        intermediate_size=target.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=target.num_key_value_heads,
        head_dim=getattr(target, "head_dim", None) or target.hidden_size // heads,
        max_position_embeddings=target.max_position_embeddings,
        rms_norm_eps=target.rms_norm_eps,
        rope_parameters=target.rope_parameters,
        tie_word_embeddings=False,
    )


def check_architecture(target: PretrainedConfig) -> None:
    """Raise ValueError unless specrt knows the target's architecture."""
    if target.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"the target is a {target.model_type!r} model; specrt knows {known}")


def target_ends(target: PreTrainedModel) -> dict[str, Tensor]:
    """Embedding, last norm and head of a Llama-like target, under the names of a drafter."""
    weights = dict(target.named_parameters())
    embedding = weights["model.embed_tokens.weight"]
    ends = {
        "embed_tokens.weight": embedding,
        "norm.weight": weights["model.norm.weight"],
        "lm_head.weight": weights.get("lm_head.weight", embedding),  # tied: stored once
    }
    return {name: one.detach().float() for name, one in ends.items()}


@torch.no_grad()
def read_output(target: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (b, t, v) of a Llama-like target for ids (b, t), and the states that its head read."""
    body: Any = target.model
    states: Tensor = body(ids, use_cache=False).last_hidden_state
    return target.lm_head(states), states


def start_randomly(module: nn.Module, std: float) -> None:
    """Draw the weights of all linear maps and embeddings anew."""
    for one in module.modules():
        if isinstance(one, nn.Linear | nn.Embedding):
            nn.init.normal_(one.weight, std=std)


def pick_states(states: Tensor, places: Tensor) -> Tensor:
    """Those (b, s, f) of states (b, t, f) that lie at places (b, s)."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))

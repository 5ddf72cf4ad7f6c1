"""Tiny random P-EAGLE drafters, as folders in the form of vLLM's speculators library."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .tiny_llama import TinyLlama
from .tiny_llama import config as llama_config

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TinyEagle:
    """A drafter for `target`; `decoder` is the shape of its layers, with the target's width."""

    target: TinyLlama
    decoder: TinyLlama
    feature_layers: tuple[int, ...] = (0, 2, 3)
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False
    mask_token: int = 5
    seed: int = 7

    @property
    def feature_cols(self) -> int:
        """Columns of the hidden states that a row reads."""
        return len(self.feature_layers) * self.target.hidden


def config(model: TinyEagle) -> dict[str, Any]:
    """Contents of config.json."""
    return {
        "architectures": ["PEagleDraftModel"],
        "draft_vocab_size": model.decoder.vocab,
        "dtype": "float32",
        "eagle_aux_hidden_state_layer_ids": list(model.feature_layers),
        "embed_requires_grad": True,
        "fc_norm": model.fc_norm,
        "mask_token_id": model.mask_token,
        "norm_before_fc": model.norm_before_fc,
        "norm_before_residual": model.norm_before_residual,
        "norm_output": False,
        "speculators_config": {
            "algorithm": "peagle",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 8}],
            "verifier": {"architectures": ["LlamaForCausalLM"], "name_or_path": None},
        },
        "speculators_model_type": "peagle",
        "speculators_version": "0.9.0",
        "target_hidden_size": None,
        "tie_word_embeddings": False,
        "transformer_layer_config": llama_config(model.decoder),
        "transformers_version": "5.0.0",
    }


def shapes(model: TinyEagle) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by its stored name."""
    c, width = model.decoder, model.decoder.hidden
    found: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (c.vocab, width),
        "fc.weight": (width, model.feature_cols),
        "layers.0.hidden_norm.weight": (width,),
        "lm_head.weight": (c.vocab, width),
        "mask_hidden": (1, 1, model.feature_cols),
        "norm.weight": (width,),
    }
    if model.norm_before_fc:
        found["input_norm.weight"] = (model.feature_cols,)
    if model.fc_norm:
        found |= {f"fc_norm.{i}.weight": (width,) for i in range(len(model.feature_layers))}
    for layer in range(c.layers):
        at, inputs = f"layers.{layer}.", width if layer else 2 * width
        for name, heads in (("q", c.heads), ("k", c.kv_heads), ("v", c.kv_heads)):
            found[f"{at}self_attn.{name}_proj.weight"] = (heads * c.head_dim, inputs)
        found[f"{at}self_attn.o_proj.weight"] = (width, c.heads * c.head_dim)
        if c.architecture == "qwen3":
            found |= {f"{at}self_attn.{name}_norm.weight": (c.head_dim,) for name in "qk"}
        found |= {f"{at}mlp.{name}_proj.weight": (c.ffn, width) for name in ("gate", "up")}
        found[f"{at}mlp.down_proj.weight"] = (width, c.ffn)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{at}{name}.weight"] = (width,)
    return found


def weights(model: TinyEagle) -> Tensors:
    """Random weights: gains near 1, matrices that keep the size of what they multiply."""
    random = torch.Generator().manual_seed(model.seed)

    def tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        noise = torch.randn(shape, generator=random)
        if len(shape) == 1:
            return 1 + 0.1 * noise
        return (
            noise if name in ("embed_tokens.weight", "mask_hidden") else noise * shape[-1] ** -0.5
        )

    return {name: tensor(name, shape) for name, shape in shapes(model).items()}


def write_tiny_eagle(folder: Path, model: TinyEagle, tensors: Tensors | None = None) -> Path:
    """Write config and weights (those of `weights` unless given) into a new folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(model)), encoding="utf-8")
    save_file(weights(model) if tensors is None else tensors, folder / "model.safetensors")
    return folder

"""Tiny random parallel Medusa drafters: their folders, and a forward in PyTorch.

Source: ParallelSpec (arXiv 2410.05589) in its Medusa form. Row p < known is the target's last
hidden state of position p and predicts token p + 2; the rows behind are masks. There is no cache.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from specrt.build.files import weights_hash
from torch import Tensor
from torch.nn.functional import linear, silu

from .parallel_eagle import attention, rms_norm
from .tiny_eagle import Tensors
from .tiny_llama import TinyLlama
from .tiny_llama import config as llama_config


@dataclass(frozen=True)
class TinyParallelMedusa:
    """A drafter of the given layers, with the target's width."""

    decoder: TinyLlama
    seed: int = 9


def weights(model: TinyParallelMedusa) -> Tensors:
    """Random weights by their stored names."""
    c, width = model.decoder, model.decoder.hidden
    random = torch.Generator().manual_seed(model.seed)

    def matrix(rows: int, cols: int) -> Tensor:
        values: Tensor = torch.randn((rows, cols), generator=random) * cols**-0.5
        return values

    def gain() -> Tensor:
        return 1 + 0.1 * torch.randn(width, generator=random)

    found = {"mask_hidden": torch.randn((1, 1, width), generator=random), "norm.weight": gain()}
    for layer in range(c.layers):
        at = f"layers.{layer}."
        for name, heads in (("q", c.heads), ("k", c.kv_heads), ("v", c.kv_heads)):
            found[f"{at}self_attn.{name}_proj.weight"] = matrix(heads * c.head_dim, width)
        found[f"{at}self_attn.o_proj.weight"] = matrix(width, c.heads * c.head_dim)
        found |= {f"{at}mlp.{name}_proj.weight": matrix(c.ffn, width) for name in ("gate", "up")}
        found[f"{at}mlp.down_proj.weight"] = matrix(width, c.ffn)
        found |= {
            f"{at}{name}.weight": gain() for name in ("input_layernorm", "post_attention_layernorm")
        }
    return found


def write_folder(folder: Path, model: TinyParallelMedusa, target: Path, **changes: object) -> Path:
    """Write config, with `changes`, and weights into a new folder."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["ParallelMedusa"],
        "depths": 8,
        "layer": llama_config(model.decoder),
        "model_type": "parallel_medusa",
        "target_sha256": weights_hash(target),
    }
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    save_file(weights(model), folder / "model.safetensors")
    return folder


def draft_logits(
    model: TinyParallelMedusa, w: Tensors, features: Tensor, head: Tensor, count: int
) -> Tensor:
    """Logits of all states (known, width), then of the masks of a draft of `count` tokens.

    `head` (vocab, width) is the target's output matrix.
    """
    known = len(features)
    x = torch.cat([features, w["mask_hidden"].view(1, -1).expand(count - 1, -1)])
    positions = torch.arange(known + count - 1)
    sees = positions[None] <= positions[:, None]
    for layer in range(model.decoder.layers):
        at = f"layers.{layer}."
        normed = rms_norm(x, w[f"{at}input_layernorm.weight"])
        x = x + attention(model.decoder, w, at, normed, positions, sees)
        normed = rms_norm(x, w[f"{at}post_attention_layernorm.weight"])
        gate = silu(linear(normed, w[f"{at}mlp.gate_proj.weight"]))
        up = linear(normed, w[f"{at}mlp.up_proj.weight"])
        x = x + linear(gate * up, w[f"{at}mlp.down_proj.weight"])
    scores: Tensor = linear(rms_norm(x, w["norm.weight"]), head)
    return scores

"""Random streaming adapters for tiny models, as `specrt train streaming` writes them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .tiny_llama import TinyLlama

PRUNE_RANK = 8


@dataclass(frozen=True)
class TinyStreaming:
    """Shape of an adapter of `target`."""

    target: TinyLlama
    streams: int = 3
    layers: int = 2
    positions: str = "shifted"
    rank: int = 4
    modules: tuple[str, ...] = ("qkv", "o", "down")
    scale: float = 0.3  # of the LoRA; embeddings have a deviation of one


def tensors(model: TinyStreaming) -> dict[str, Tensor]:
    """The adapter's tensors by their names, rounded to bf16."""
    c, random = model.target, torch.Generator().manual_seed(5)
    queries = c.heads * c.head_dim
    shapes = {
        "qkv": (c.hidden, queries + 2 * c.kv_heads * c.head_dim),
        "o": (queries, c.hidden),
        "down": (c.ffn, c.hidden),
    }

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    found = {
        "stream_embeddings": noise(model.streams, c.hidden),
        "prune.lora_a": noise(PRUNE_RANK, c.hidden) * c.hidden**-0.5,
        "prune.lora_b": noise(c.hidden, PRUNE_RANK),
    }
    for layer in range(c.layers - model.layers, c.layers):
        for module in model.modules:
            cols, rows = shapes[module]
            at = f"layers.{layer}.{module}."
            found[f"{at}lora_a"] = noise(model.rank, cols) * cols**-0.5
            found[f"{at}lora_b"] = noise(rows, model.rank) * model.scale
    return {name: tensor.bfloat16() for name, tensor in found.items()}


def config(model: TinyStreaming, base: Path) -> dict[str, object]:
    """What config.json says, with the hash of the base's weights."""
    digest = hashlib.sha256()
    for path in sorted(base.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return {
        "architectures": ["SpeculativeStreaming"],
        "model_type": "speculative_streaming",
        "streams": model.streams,
        "stream_layers": model.layers,
        "stream_positions": model.positions,
        "lora_rank": model.rank,
        "lora_modules": list(model.modules),
        "prune_rank": PRUNE_RANK,
        "hidden_size": model.target.hidden,
        "num_hidden_layers": model.target.layers,
        "vocab_size": model.target.vocab,
        "base_sha256": digest.hexdigest(),
    }


def write_tiny_streaming(folder: Path, model: TinyStreaming, base: Path) -> Path:
    """Write the adapter for the model in `base`; returns its folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(model, base)), encoding="utf-8")
    save_file(tensors(model), folder / "model.safetensors")
    return folder

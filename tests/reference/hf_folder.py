"""Reads a Hugging Face model folder: config.json and safetensors files, sharded or not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arrays import Doubles, Floats
from .ops import inverse_frequencies, llama3_frequencies
from .safetensors_file import read_safetensors

DEFAULT_THETA = 10000.0
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class LlamaConfig:
    """What a Llama forward needs of config.json."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocab: int
    eps: float
    tied: bool
    inverse_frequencies: Doubles
    windows: tuple[int, ...]  # positions that a row of each layer sees, 0: all


def rope_frequencies(config: Mapping[str, Any], head_size: int) -> Doubles:
    """Inverse frequencies from either form of config.json.

    transformers 5 writes `rope_parameters`; older versions `rope_theta` and `rope_scaling`.
    """
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(rope.get("rope_theta", config.get("rope_theta", DEFAULT_THETA)))
    inverse = inverse_frequencies(head_size, theta)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return inverse
    if kind == "llama3":
        return llama3_frequencies(
            inverse,
            factor=rope["factor"],
            low=rope["low_freq_factor"],
            high=rope["high_freq_factor"],
            context=rope["original_max_position_embeddings"],
        )
    raise ValueError(f"rope type {kind!r} is not supported")


def read_windows(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Window of every layer; Qwen has it from layer `max_window_layers` on if it is used."""
    kind, layers = config["model_type"], range(config["num_hidden_layers"])
    used = config.get("use_sliding_window") if kind.startswith("qwen") else kind == "mistral"
    size = (config["sliding_window"] or 0) if used else 0
    first = config["max_window_layers"] if kind.startswith("qwen") else 0
    return tuple(size if layer >= first else 0 for layer in layers)


def read_config(folder: Path) -> LlamaConfig:
    """Read config.json. Raises ValueError for what the reference does not compute."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if raw["model_type"] not in MODEL_TYPES:
        raise ValueError(f"model type {raw['model_type']!r} is not supported")
    for name in ("attention_bias", "mlp_bias"):
        if raw.get(name):
            raise ValueError(f"{name} is not supported")
    heads = raw["num_attention_heads"]
    head_size = raw.get("head_dim") or raw["hidden_size"] // heads
    return LlamaConfig(
        width=raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_size=head_size,
        vocab=raw["vocab_size"],
        eps=raw["rms_norm_eps"],
        tied=raw.get("tie_word_embeddings", False),
        inverse_frequencies=rope_frequencies(raw, head_size),
        windows=read_windows(raw),
    )


def read_tensors(folder: Path) -> dict[str, Floats]:
    """All tensors of the folder by name, as float32."""
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.exists():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return {
        name: values for file in files for name, values in read_safetensors(folder / file).items()
    }

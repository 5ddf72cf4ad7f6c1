"""Tiny random models of odd shapes, Llama and its relatives, as Hugging Face folders.

Weights are uniform Philox noise, the same on every machine and with every NumPy. They are scaled so
that the logits have a standard deviation of about 3: neither flat nor one-hot.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import Doubles, Floats
from .gumbel import uniform
from .philox import Purpose, noise_bits
from .safetensors_file import write_safetensors
from .tiny_tokenizer import SPECIALS, VOCAB, write_tokenizer

LLAMA3_SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


class ConfigForm(Enum):
    """Which transformers version wrote config.json."""

    TRANSFORMERS_5 = 5  # rope_parameters, dtype
    TRANSFORMERS_4 = 4  # rope_theta, rope_scaling, torch_dtype


class Head(Enum):
    """Whether the output matrix is the embedding or one of its own."""

    TIED = "tied"
    UNTIED = "untied"


@dataclass(frozen=True)
class TinyLlama:
    """Shape and storage of a tiny model. The defaults divide by nothing convenient."""

    hidden: int = 48
    layers: int = 3
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 10
    ffn: int = 76
    vocab: int = 277
    head: Head = Head.TIED
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None  # LLAMA3_SCALING, or None for plain rotary
    dtype: str = "f32"  # or "bf16"
    shards: int = 1
    context: int = 256
    config_form: ConfigForm = ConfigForm.TRANSFORMERS_5
    seed: int = 1
    architecture: str = "llama"  # a key of CLASSES
    window: int | None = None  # sliding_window; Qwen uses it if it is there
    full_layers: int = 0  # Qwen: as many first layers have no window


def weights(model: TinyLlama) -> Iterator[tuple[str, Floats]]:
    """Names and float32 values of all weights, in a fixed order."""
    number = count()

    def noise(*shape: int) -> Doubles:
        index = np.arange(np.prod(shape)).reshape(shape)
        bits = noise_bits(model.seed, next(number), Purpose.TOKEN, index)
        return np.asarray(np.sqrt(3.0) * (2 * uniform(bits) - 1))

    def matrix(outputs: int, inputs: int, scale: float = 1.0) -> Floats:
        return np.asarray(noise(outputs, inputs) * (scale / np.sqrt(inputs)), dtype=np.float32)

    def norm(size: int = model.hidden) -> Floats:
        return np.asarray(1 + 0.1 * noise(size), dtype=np.float32)

    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    yield "model.embed_tokens.weight", matrix(model.vocab, model.hidden, 3.0)
    for i in range(model.layers):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", norm()
        yield f"{layer}.self_attn.q_proj.weight", matrix(queries, model.hidden, 2.0)
        yield f"{layer}.self_attn.k_proj.weight", matrix(keys, model.hidden, 2.0)
        yield f"{layer}.self_attn.v_proj.weight", matrix(keys, model.hidden)
        yield f"{layer}.self_attn.o_proj.weight", matrix(model.hidden, queries)
        if model.architecture == "qwen2":
            for name, size in (("q", queries), ("k", keys), ("v", keys)):
                yield f"{layer}.self_attn.{name}_proj.bias", np.float32(0.5) * norm(size)
        if model.architecture == "qwen3":
            for name in "qk":
                yield f"{layer}.self_attn.{name}_norm.weight", norm(model.head_dim)
        yield f"{layer}.post_attention_layernorm.weight", norm()
        yield f"{layer}.mlp.gate_proj.weight", matrix(model.ffn, model.hidden)
        yield f"{layer}.mlp.up_proj.weight", matrix(model.ffn, model.hidden)
        yield f"{layer}.mlp.down_proj.weight", matrix(model.hidden, model.ffn)
    yield "model.norm.weight", norm()
    if model.head is Head.UNTIED:
        yield "lm_head.weight", matrix(model.vocab, model.hidden, 3.0)


def rope_entries(model: TinyLlama) -> dict[str, Any]:
    """Rotary settings in the form that the chosen transformers version writes."""
    scaling = model.rope_scaling and {"rope_type": "llama3", **model.rope_scaling}
    if model.config_form is ConfigForm.TRANSFORMERS_4:
        return {"rope_theta": model.rope_theta, "rope_scaling": scaling}
    kind = scaling or {"rope_type": "default"}
    return {"rope_parameters": {"rope_theta": model.rope_theta, **kind}}


def own_entries(model: TinyLlama) -> dict[str, Any]:
    """Keys that only this architecture's config.json has."""
    if model.architecture == "mistral":
        return {"sliding_window": model.window}
    if model.architecture == "llama":
        return {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
    return {
        **({"attention_bias": False} if model.architecture == "qwen3" else {}),
        "max_window_layers": model.full_layers,
        "sliding_window": model.window,
        "use_sliding_window": model.window is not None,
    }


def config(model: TinyLlama) -> dict[str, Any]:
    """Contents of config.json."""
    old = model.config_form is ConfigForm.TRANSFORMERS_4
    return {
        "architectures": [CLASSES[model.architecture]],
        "attention_dropout": 0.0,
        "bos_token_id": SPECIALS["<|endoftext|>"],
        "torch_dtype" if old else "dtype": "bfloat16" if model.dtype == "bf16" else "float32",
        "eos_token_id": [SPECIALS["<|end|>"], SPECIALS["<|endoftext|>"]],
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "hidden_size": model.hidden,
        "initializer_range": 0.02,
        "intermediate_size": model.ffn,
        "max_position_embeddings": model.context,
        "model_type": model.architecture,
        "num_attention_heads": model.heads,
        "num_hidden_layers": model.layers,
        "num_key_value_heads": model.kv_heads,
        "pad_token_id": SPECIALS["<|pad|>"],
        "rms_norm_eps": 1e-6,
        **own_entries(model),
        **rope_entries(model),
        "tie_word_embeddings": model.head is Head.TIED,
        "transformers_version": "4.57.0" if old else "5.0.0",
        "use_cache": True,
        "vocab_size": model.vocab,
    }


def write_weights(folder: Path, model: TinyLlama) -> None:
    """Write model.safetensors, or shards with an index; tensors are dealt round-robin."""
    tensors = dict(weights(model))
    stored = model.dtype.upper()
    if model.shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, stored)
        return
    weight_map, size = {}, 0
    for shard in range(model.shards):
        file = f"model-{shard + 1:05d}-of-{model.shards:05d}.safetensors"
        names = list(tensors)[shard :: model.shards]
        size += write_safetensors(folder / file, {n: tensors[n] for n in names}, stored)
        weight_map.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file as Hugging Face lays it out."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_tiny_llama(folder: Path, model: TinyLlama) -> Path:
    """Write config, weights and tokenizer into `folder`, which is made if missing."""
    if model.dtype not in ("f32", "bf16"):
        raise ValueError(f"dtype {model.dtype!r} is neither f32 nor bf16")
    if model.vocab < VOCAB:
        raise ValueError(f"vocab {model.vocab} is smaller than the tokenizer's {VOCAB}")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config(model))
    ends = {"eos_token_id": config(model)["eos_token_id"]}
    write_json(folder / "generation_config.json", ends)
    write_weights(folder, model)
    write_tokenizer(folder, model.context)
    return folder

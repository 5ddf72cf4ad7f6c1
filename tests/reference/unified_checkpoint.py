"""Rebuilds a model from a TensorRT-LLM checkpoint: one set of weights from the files of all ranks.

Written from the format: linear weights are (outputs, inputs); a rank's `attention.qkv` is its rows
of q, k and v one under another; `attention.dense` and `mlp.proj` are cut by columns; `mlp.fc` is
the projection that is activated (gate of SwiGLU) and `mlp.gate` the other one (up); where a model
has fewer key heads than there are ranks, neighbouring ranks hold the same one.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import Floats
from .hf_folder import LlamaConfig, rope_frequencies
from .llama import Llama
from .safetensors_file import read_safetensors

Tensors = dict[str, Floats]

_COPIED = {
    "input_layernorm.weight": "input_layernorm.weight",
    "post_layernorm.weight": "post_attention_layernorm.weight",
    "attention.q_layernorm.weight": "self_attn.q_norm.weight",
    "attention.k_layernorm.weight": "self_attn.k_norm.weight",
}
_ROWS = {"mlp.fc.weight": "mlp.gate_proj.weight", "mlp.gate.weight": "mlp.up_proj.weight"}
_COLUMNS = {
    "attention.dense.weight": "self_attn.o_proj.weight",
    "mlp.proj.weight": "mlp.down_proj.weight",
}


def read_ranks(folder: Path) -> tuple[dict[str, Any], list[Tensors]]:
    """config.json and the tensors of each rank."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ranks = range(config["mapping"]["world_size"])
    return config, [read_safetensors(folder / f"rank{rank}.safetensors") for rank in ranks]


def join(ranks: list[Tensors], name: str, axis: int = 0) -> Floats:
    """All ranks' parts of a tensor in a row."""
    return np.concatenate([rank[name] for rank in ranks], axis)


def same(ranks: list[Tensors], name: str) -> Floats:
    """A tensor that all ranks have. Raises ValueError if they differ."""
    if any(not np.array_equal(rank[name], ranks[0][name]) for rank in ranks):
        raise ValueError(f"{name} is not the same on all ranks")
    return ranks[0][name]


def split_qkv(config: dict[str, Any], ranks: list[Tensors], name: str) -> tuple[Floats, ...]:
    """q, k and v of all heads. Raises ValueError where copies of a key head differ."""
    size, count = config["head_size"], len(ranks)
    queries = config["num_attention_heads"] // count * size
    keys = max(config["num_key_value_heads"] // count, 1) * size
    copies = max(count // config["num_key_value_heads"], 1)
    parts: list[Floats] = []
    for begin, rows in ((0, queries), (queries, keys), (queries + keys, keys)):
        pieces = [rank[name][begin : begin + rows] for rank in ranks]
        if begin:
            kept = pieces[::copies]
            if any(not np.array_equal(p, kept[i // copies]) for i, p in enumerate(pieces)):
                raise ValueError(f"copies of a key head in {name} differ")
            pieces = kept
        parts.append(np.concatenate(pieces))
    return tuple(parts)


def vocabulary(config: dict[str, Any], ranks: list[Tensors], name: str) -> Floats:
    """A matrix with a row for each token. Raises ValueError if the padding is not zero."""
    joined = join(ranks, name)
    if joined[config["vocab_size"] :].any():
        raise ValueError(f"the padding of {name} is not zero")
    return joined[: config["vocab_size"]]


def rebuild(folder: Path) -> Llama:
    """The model of a checkpoint, weights by their Hugging Face names."""
    config, ranks = read_ranks(folder)
    if config["position_embedding_type"] != "rope_gpt_neox" or config["hidden_act"] != "silu":
        raise ValueError("not a model of the Llama kind")
    embed = vocabulary if config["use_parallel_embedding"] else lambda _, r, name: same(r, name)
    weights = {
        "model.embed_tokens.weight": embed(config, ranks, "transformer.vocab_embedding.weight"),
        "model.norm.weight": same(ranks, "transformer.ln_f.weight"),
        "lm_head.weight": vocabulary(config, ranks, "lm_head.weight"),
    }
    for layer in range(config["num_hidden_layers"]):
        at, to = f"transformer.layers.{layer}.", f"model.layers.{layer}."
        for kind in ("weight", "bias"):
            if f"{at}attention.qkv.{kind}" in ranks[0]:
                parts = split_qkv(config, ranks, f"{at}attention.qkv.{kind}")
                for letter, part in zip("qkv", parts, strict=True):
                    weights[f"{to}self_attn.{letter}_proj.{kind}"] = part
        for theirs, ours in _COPIED.items():
            if at + theirs in ranks[0]:
                weights[to + ours] = same(ranks, at + theirs)
        weights |= {to + ours: join(ranks, at + theirs) for theirs, ours in _ROWS.items()}
        weights |= {to + ours: join(ranks, at + theirs, 1) for theirs, ours in _COLUMNS.items()}
    return Llama(model_config(config), weights)


def model_config(config: dict[str, Any]) -> LlamaConfig:
    """What a forward needs of config.json."""
    rope = {"rope_theta": config["rotary_base"], "rope_scaling": config["rotary_scaling"]}
    return LlamaConfig(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_size=config["head_size"],
        vocab=config["vocab_size"],
        eps=config["norm_epsilon"],
        tied=False,  # the output matrix is always stored
        inverse_frequencies=rope_frequencies(rope, config["head_size"]),
        windows=(0,) * config["num_hidden_layers"],
    )

"""A random-weights Llama folder of any shape, to compare the speed of kernels.

The weights are scaled so that activations stay of order one through every layer; the text such a
model writes means nothing. NumPy only; the tokenizer is copied from a given folder.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from specrt.build.pack import bf16_from_float
from specrt.eval.peers.raw_safetensors import write_bf16

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama: d hidden, f ffn, h query heads, g key/value heads, v vocabulary."""

    hidden: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int
    context: int = 2048

    def __post_init__(self) -> None:
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"want hidden {self.hidden} % heads {self.heads} == 0 and "
                f"heads % kv_heads {self.kv_heads} == 0"
            )

    @property
    def head_dim(self) -> int:
        """Elements of a head."""
        return self.hidden // self.heads


def make_synthetic(shape: Shape, tokenizer: Path, out: Path, seed: int) -> int:
    """Write config, bf16 weights (tied embeddings) and tokenizer to `out`; returns the parameters.

    The special tokens' ids come from the tokenizer folder's `config.json`. Raises ValueError when
    the tokenizer has ids beyond `shape.vocab`, FileNotFoundError when a file is missing there.
    """
    source = json.loads((tokenizer / "config.json").read_text("utf-8"))
    if int(source["vocab_size"]) > shape.vocab:
        raise ValueError(f"tokenizer has {source['vocab_size']} ids, the model {shape.vocab}")
    out.mkdir(parents=True, exist_ok=True)
    for name in _TOKENIZER_FILES:
        if (tokenizer / name).exists() or name != "generation_config.json":
            shutil.copyfile(tokenizer / name, out / name)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": source.get("bos_token_id"),
        "dtype": "bfloat16",
        "eos_token_id": source.get("eos_token_id"),
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": source.get("pad_token_id"),
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "vocab_size": shape.vocab,
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    tensors = _weights(shape, np.random.default_rng(seed))
    write_bf16(out / "model.safetensors", tensors)
    return sum(data.size for data in tensors.values())


def _weights(shape: Shape, rng: np.random.Generator) -> dict[str, npt.NDArray[np.uint16]]:
    d, f, kv = shape.hidden, shape.ffn, shape.kv_heads * shape.head_dim

    def matrix(outputs: int, inputs: int) -> npt.NDArray[np.uint16]:
        values = rng.standard_normal((outputs, inputs), dtype=np.float32)
        return bf16_from_float(values * np.float32(inputs**-0.5))

    ones = bf16_from_float(np.ones(d, dtype=np.float32))
    tensors = {"model.embed_tokens.weight": matrix(shape.vocab, d)}
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        tensors[at + "input_layernorm.weight"] = ones
        tensors[at + "self_attn.q_proj.weight"] = matrix(d, d)
        tensors[at + "self_attn.k_proj.weight"] = matrix(kv, d)
        tensors[at + "self_attn.v_proj.weight"] = matrix(kv, d)
        tensors[at + "self_attn.o_proj.weight"] = matrix(d, d)
        tensors[at + "post_attention_layernorm.weight"] = ones
        tensors[at + "mlp.gate_proj.weight"] = matrix(f, d)
        tensors[at + "mlp.up_proj.weight"] = matrix(f, d)
        tensors[at + "mlp.down_proj.weight"] = matrix(d, f)
    tensors["model.norm.weight"] = ones
    return tensors

"""Writes a Hugging Face Llama folder as a GGUF file: bf16 matrices, f32 norms, byte-level BPE.

So that llama.cpp runs the very weights that specrt runs. Only what the comparison needs: other
architectures, biases, rope scaling and other tokenizers are refused by name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from specrt.eval.peers.raw_safetensors import RawTensor, read_folder

# Pre-tokenizer regexes of `tokenizer.json` that llama.cpp knows, by its name for them.
_SPLIT_REGEXES = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
}

_TENSOR_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def export_gguf(folder: Path, out: Path) -> None:
    """Write `folder` (Llama architecture) to the GGUF file `out`.

    Raises ValueError naming the feature when the model has one that is not carried over.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    _check(config)
    partial = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    _add_config(writer, config, folder.name)
    _add_tokenizer(writer, folder, config)
    for name, tensor in read_folder(folder):
        if name == "lm_head.weight" and config.get("tie_word_embeddings", False):
            continue
        _add_tensor(writer, name, tensor, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(out)


def _check(config: dict[str, Any]) -> None:
    if config.get("model_type") != "llama":
        raise ValueError(f"model_type {config.get('model_type')!r}: only llama is exported")
    for flag in ("attention_bias", "mlp_bias"):
        if config.get(flag):
            raise ValueError(f"{flag} is not carried over")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"rope type {kind!r} is not carried over")


def _add_config(writer: gguf.GGUFWriter, config: dict[str, Any], name: str) -> None:
    heads = int(config["num_attention_heads"])
    head_dim = _head_dim(config)
    rope = config.get("rope_parameters") or {}
    writer.add_name(name)
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_BF16))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(int(config["vocab_size"]))


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    data: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    model = data["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or data.get("normalizer"):
        raise ValueError("only a byte-level BPE tokenizer without normalizer is exported")
    pieces = {int(index): piece for piece, index in model["vocab"].items()}
    kinds = dict.fromkeys(pieces, gguf.TokenType.NORMAL)
    for token in data.get("added_tokens", []):
        pieces[token["id"]] = token["content"]
        special = bool(token["special"])
        kinds[token["id"]] = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
    ids = range(int(config["vocab_size"]))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(data["pre_tokenizer"]))
    writer.add_token_list([pieces.get(i, f"[PAD{i}]") for i in ids])
    writer.add_token_types([int(kinds.get(i, gguf.TokenType.UNUSED)) for i in ids])
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    )
    eos = config.get("eos_token_id")
    eos = eos[0] if isinstance(eos, list) else eos
    if config.get("bos_token_id") is not None:
        writer.add_bos_token_id(int(config["bos_token_id"]))
    if eos is not None:
        writer.add_eos_token_id(int(eos))
    # Prompts come with their special tokens written out, so nothing is added around them.
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def _pre_tokenizer(spec: dict[str, Any]) -> str:
    steps: list[dict[str, Any]] = spec["pretokenizers"] if spec["type"] == "Sequence" else [spec]
    byte_level = [step for step in steps if step["type"] == "ByteLevel"]
    splits = [step for step in steps if step["type"] == "Split"]
    if len(byte_level) == 1 and not byte_level[0].get("add_prefix_space"):
        if len(steps) == 1 and byte_level[0].get("use_regex", True):
            return "gpt-2"
        if len(steps) == 2 and len(splits) == 1:
            regex = splits[0]["pattern"].get("Regex", "")
            if regex in _SPLIT_REGEXES:
                return _SPLIT_REGEXES[regex]
    raise ValueError(f"pre_tokenizer {spec['type']!r} is not one that llama.cpp is told about here")


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, tensor: RawTensor, config: dict[str, Any]
) -> None:
    if tensor.data.ndim == 1:
        writer.add_tensor(_gguf_name(name), tensor.as_f32())
        return
    bits = tensor.as_bf16_bits()
    heads = int(config["num_attention_heads"])
    if name.endswith("q_proj.weight"):
        bits = _interleave(bits, heads)
    elif name.endswith("k_proj.weight"):
        bits = _interleave(bits, int(config.get("num_key_value_heads") or heads))
    raw = np.ascontiguousarray(bits).view(np.uint8)
    writer.add_tensor(_gguf_name(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)


def _interleave(bits: npt.NDArray[np.uint16], heads: int) -> npt.NDArray[np.uint16]:
    """Rows of each head from Hugging Face's (half, half) to llama.cpp's (even, odd) rope order."""
    rows, columns = bits.shape
    halves = bits.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _gguf_name(name: str) -> str:
    if name in _TENSOR_NAMES:
        return _TENSOR_NAMES[name]
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if found is None or found[2] not in _LAYER_NAMES:
        raise ValueError(f"tensor {name!r} has no place in a Llama GGUF")
    return f"blk.{found[1]}.{_LAYER_NAMES[found[2]]}.weight"


def _head_dim(config: dict[str, Any]) -> int:
    return int(
        config.get("head_dim") or config["hidden_size"] // int(config["num_attention_heads"])
    )

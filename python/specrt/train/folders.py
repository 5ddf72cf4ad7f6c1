"""Hugging Face folders of the demo models: shapes, configuration files, tokenizer.

The two models share one byte-level BPE of 8192 tokens. A folder holds `config.json`,
`generation_config.json`, `model.safetensors`, `tokenizer.json` and `tokenizer_config.json`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from specrt.train.data import END_OF_TEXT, END_OF_TURN, PAD
from specrt.train.llama import Llama, LlamaShape, save_llama

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|system|>",
    "<|pad|>",
    "<|mask|>",
    "<|reserved|>",
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
CONTEXT = 2048
TARGET_SHAPE = LlamaShape(8192, 384, 8, 1024, 6, 2, 64, 10000.0, 1e-6)
DRAFT_SHAPE = LlamaShape(8192, 192, 2, 512, 3, 1, 64, 10000.0, 1e-6)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Train a byte-level BPE with the vocabulary of the demo shapes, special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TARGET_SHAPE.vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def model_config(shape: LlamaShape) -> dict[str, Any]:
    """Contents of `config.json`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": END_OF_TEXT,
        "dtype": "bfloat16",
        "eos_token_id": END_OF_TURN,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": CONTEXT,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": PAD,
        "pretraining_tp": 1,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": True,
        "transformers_version": transformers.__version__,
        "use_cache": True,
        "vocab_size": shape.vocab,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": SPECIAL_TOKENS[END_OF_TEXT],
            "eos_token": SPECIAL_TOKENS[END_OF_TURN],
            "model_max_length": CONTEXT,
            "pad_token": SPECIAL_TOKENS[PAD],
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": CHAT_TEMPLATE,
        },
    )


def write_model(model: Llama, tokenizer_from: Path, folder: Path) -> None:
    """Write a whole model folder, with the tokenizer files of another one."""
    folder.mkdir(parents=True, exist_ok=True)
    save_llama(model, folder / "model.safetensors")
    _write_json(folder / "config.json", model_config(model.shape))
    _write_json(
        folder / "generation_config.json",
        {
            "_from_model_config": True,
            "bos_token_id": END_OF_TEXT,
            "eos_token_id": [END_OF_TURN, END_OF_TEXT],
            "output_attentions": False,
            "output_hidden_states": False,
            "pad_token_id": PAD,
            "transformers_version": transformers.__version__,
            "use_cache": True,
        },
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if tokenizer_from != folder:
            shutil.copyfile(tokenizer_from / name, folder / name)

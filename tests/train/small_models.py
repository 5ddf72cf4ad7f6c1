"""A tiny target, a tiny draft and data on disk, for training from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from specrt.train import folders
from transformers import LlamaConfig, LlamaForCausalLM

TEXTS = ("count one two three four", "count four three two one", "say a few words of text")


def write_tiny(folder: Path, seed: int, width: int, layers: int) -> Path:
    """A Hugging Face folder of a random Llama with a byte-level tokenizer."""
    torch.manual_seed(seed)
    tokenizer = folders.train_tokenizer(TEXTS)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=2 * width,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=3,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    folders.write_tokenizer(tokenizer, folder)
    return folder


def write_rows(path: Path) -> Path:
    """Rows whose answers follow from their prompts."""
    words = ["one", "two", "three", "four"]
    rows = [
        {"prompt": f"count {a} {b}", "response": " ".join([a, b] * 6)} for a in words for b in words
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

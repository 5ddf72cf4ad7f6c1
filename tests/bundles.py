"""Bundles that tests build for the backend they run on."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import specrt
import torch
from backends import BACKEND, by_backend
from reference.tiny_eagle import TinyEagle
from reference.tiny_llama import Head, TinyLlama, write_tiny_llama
from safetensors.torch import load_file, save_file
from specrt.build import build

DEMO = Path(specrt.__file__).parent / "demo"

# What CUDA asks of a tiny model: heads of 64, an ffn of whole eights.
CUDA_SHAPE: dict[str, Any] = {"heads": 2, "kv_heads": 1, "head_dim": 64, "ffn": 72}
STAND_IN_VOCAB = 1024


def tiny_model(**fields: Any) -> TinyLlama:
    """A tiny model that the backend under test can run; `fields` that it needs are replaced."""
    return TinyLlama(**(fields | by_backend(cpu={}, cuda=CUDA_SHAPE)))


def write_mask_drafter(source: Path, folder: Path) -> Path:
    """The model of `source` with one more token, a random one: a drafter that fills masks.

    It is right about the first token of a draft, and knows nothing of the others.
    """
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocab = config["vocab_size"]
    config |= {"vocab_size": vocab + 1, "pard_token": vocab}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    mask = torch.randn(1, config["hidden_size"], generator=torch.Generator().manual_seed(3))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            rows = tensors[name]
            tensors[name] = torch.cat([rows, mask.to(rows.dtype) * rows.float().std()])
    save_file(tensors, file)
    return folder


def tiny_eagle(target: TinyLlama, layers: int = 2) -> TinyEagle:
    """A tiny P-EAGLE drafter for `target` that the backend under test can run."""
    decoder = replace(target, layers=layers, head=Head.UNTIED, architecture="llama", window=None)
    return TinyEagle(target, decoder)


def bundle_of(
    target: Path,
    out: Path,
    *,
    draft: Path | Sequence[Path] | None = None,
    dtype: str | None = None,
) -> Path:
    """Build for the backend under test, without step times; CUDA engines are always bf16."""
    dtype = by_backend(cpu=dtype, cuda="bf16")
    return build(
        target, draft=draft, out=out, backend=BACKEND, dtype=dtype, progress=False, tune=False
    )


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """The demo's tokenizer with the first STAND_IN_VOCAB of its tokens, which merges give last."""
    shutil.copyfile(source / "tokenizer_config.json", folder / "tokenizer_config.json")
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    model = tokenizer["model"]
    model["merges"] = model["merges"][: STAND_IN_VOCAB - len(model["vocab"])]
    model["vocab"] = {text: i for text, i in model["vocab"].items() if i < STAND_IN_VOCAB}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def write_stand_ins(folder: Path) -> Path:
    """Random models for the demo's, small enough for the emulator: 0.1 M parameters.

    The draft is the target without its last layer, which makes it right often enough.
    """
    for name, layers in (("target", 2), ("draft", 1)):
        shape = TinyLlama(**CUDA_SHAPE, layers=layers, vocab=STAND_IN_VOCAB, context=2048)
        write_tiny_llama(folder / name, shape)
        _copy_tokenizer(DEMO / name, folder / name)
    return folder

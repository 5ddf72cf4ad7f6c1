"""Bundles that tests build for the backend they run on."""

import json
import shutil
from pathlib import Path
from typing import Any

import specrt
from backends import BACKEND, by_backend
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt.build import build

DEMO = Path(specrt.__file__).parent / "demo"

# What CUDA asks of a tiny model: heads of 64, an ffn of whole eights.
CUDA_SHAPE: dict[str, Any] = {"heads": 2, "kv_heads": 1, "head_dim": 64, "ffn": 72}
STAND_IN_VOCAB = 1024


def tiny_model(**fields: Any) -> TinyLlama:
    """A tiny model that the backend under test can run; `fields` that it needs are replaced."""
    return TinyLlama(**(fields | by_backend(cpu={}, cuda=CUDA_SHAPE)))


def bundle_of(
    target: Path, out: Path, *, draft: Path | None = None, dtype: str | None = None
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

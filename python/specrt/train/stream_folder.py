"""Folders of Speculative Streaming: an adapter alone, or a fine-tuned base with its adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from specrt.build.files import weights_hash
from specrt.train.drafter_folder import WEIGHTS, save_bf16
from specrt.train.mask_drafter import copy_shared, new_folder
from specrt.train.stream_adapter import (
    MODULES,
    PRUNE_RANK,
    StreamAdapter,
    StreamConfig,
    merged_weights,
)

MODEL_TYPE = "speculative_streaming"
SUBFOLDER = "streaming"  # of a base that was fine-tuned with its streams


def write_streams(adapter: StreamAdapter, target: PreTrainedModel, base: Path, out: Path) -> None:
    """Write the adapter of the unchanged base, whose folder is `base`."""
    config = adapter.config
    named = [name for name in MODULES if name in config.modules]
    _write(adapter.stored(), _config(config, named, target, weights_hash(base)), out)


def write_shared(adapter: StreamAdapter, target: PreTrainedModel, base: Path, out: Path) -> None:
    """Write the base with the LoRA merged into it, and the rest of the adapter in a subfolder."""
    with new_folder(out) as part:
        tuned = deepcopy(target)
        with torch.no_grad():
            for name, weight in merged_weights(target, adapter).items():
                tuned.get_parameter(name).copy_(weight)
        tuned.bfloat16().save_pretrained(part)
        copy_shared(base, part)
    state = adapter.stored()
    rest = {name: one for name, one in state.items() if not name.startswith("layers.")}
    _write(rest, _config(adapter.config, [], target, weights_hash(out)), out / SUBFOLDER)


def _write(state: Mapping[str, Tensor], config: Mapping[str, object], out: Path) -> None:
    with new_folder(out) as part:
        save_bf16(state, part / WEIGHTS)
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _config(
    config: StreamConfig, modules: list[str], target: PreTrainedModel, base_hash: str
) -> dict[str, object]:
    return {
        "architectures": ["SpeculativeStreaming"],
        "model_type": MODEL_TYPE,
        "streams": config.streams,
        "stream_layers": config.layers,
        "stream_positions": config.positions,
        "lora_rank": config.rank,
        "lora_modules": modules,
        "prune_rank": PRUNE_RANK,
        "hidden_size": target.config.hidden_size,
        "num_hidden_layers": target.config.num_hidden_layers,
        "vocab_size": target.config.vocab_size,
        "base_sha256": base_hash,
    }


def read_streams(folder: Path, target: PreTrainedModel, base: Path) -> StreamAdapter:
    """The adapter of a folder, in float32, for the target of folder `base`.

    Raises:
        ValueError: the folder holds no adapter, or one of another base.
    """
    raw = _read_config(folder)
    for name in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if raw[name] != getattr(target.config, name):
            raise ValueError(
                f"{folder} is for a base with {name} {raw[name]}; this one has "
                f"{getattr(target.config, name)}"
            )
    if raw["base_sha256"] != weights_hash(base):
        raise ValueError(f"{folder} was trained for other weights than those of {base}")
    config = StreamConfig(
        raw["streams"],
        raw["stream_layers"],
        raw["stream_positions"],
        raw["lora_rank"],
        tuple(raw["lora_modules"]),
    )
    adapter = StreamAdapter(config, target)
    stored = {name: one.float() for name, one in load_file(folder / WEIGHTS).items()}
    wanted = {name: one.shape for name, one in adapter.state_dict().items()}
    if {name: one.shape for name, one in stored.items()} != wanted:
        raise ValueError(f"{folder}: the tensors are not those that its config.json asks for")
    adapter.load_stored(stored)
    return adapter


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no adapter: it has no config.json")
    raw: dict[str, Any] = json.loads(path.read_text())
    if raw.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{folder} is a {raw.get('model_type')!r} model, not a {MODEL_TYPE} adapter"
        )
    return raw

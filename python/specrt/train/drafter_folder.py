"""Folders of drafters that are no whole language models: written in bf16, read for one target."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, PretrainedConfig

from specrt.train.mask_drafter import copy_shared, new_folder

WEIGHTS = "model.safetensors"
_LAYER_KEYS = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "hidden_act"),
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("max_position_embeddings", "rms_norm_eps", "rope_parameters", "attention_bias", "mlp_bias"),
)


def layer_fields(layer: LlamaConfig) -> dict[str, Any]:
    """What a config.json says of decoder layers."""
    return {key: getattr(layer, key) for key in _LAYER_KEYS}


def write_drafter(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    target: Path,
    out: Path,
    weights: str = WEIGHTS,
) -> None:
    """Write a folder with the tokenizer files of `target`; each file appears whole."""
    with new_folder(out) as part:
        save_bf16(tensors, part / weights)
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        copy_shared(target, part)


def save_bf16(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file."""
    stored = {name: one.detach().cpu().bfloat16().contiguous() for name, one in tensors.items()}
    save_file(stored, path, metadata={"format": "pt"})


@dataclass(frozen=True)
class DrafterFolder:
    """A folder that is read, for messages that name it."""

    path: Path

    def refuse(self, why: str) -> ValueError:
        """The error that says why the folder cannot be used."""
        return ValueError(f"{self.path} {why}")

    def config(self, key: str, kind: str, name: str) -> dict[str, Any]:
        """Its config.json, in which `key` must be `kind` for a drafter that is called `name`."""
        try:
            content = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self.refuse(f"is no drafter: its config.json cannot be read ({error})") from None
        found = content.get(key) if isinstance(content, dict) else None
        if found != kind:
            raise self.refuse(f"is no {name}: {key} is {found!r}, not {kind!r}")
        return dict(content)

    def count(self, content: Mapping[str, Any], key: str) -> int:
        """A positive number of its config.json."""
        found = content.get(key)
        if type(found) is not int or found < 1:
            raise self.refuse(f"has {key} {found!r}, no positive number")
        return found

    def layer(self, stored: object) -> LlamaConfig:
        """Decoder layers of its config.json."""
        kind = stored.get("model_type") if isinstance(stored, dict) else None
        if not isinstance(stored, dict) or kind != "llama":
            raise self.refuse(f"has layers of type {kind!r}; only llama is supported here")
        return LlamaConfig(**{key: one for key, one in stored.items() if key != "model_type"})

    def check_sizes(self, sizes: Mapping[str, object], target: PretrainedConfig) -> None:
        """Raise ValueError if it says another width or vocabulary than the target's."""
        for name in ("hidden_size", "vocab_size"):
            ours, theirs = sizes.get(name, getattr(target, name)), getattr(target, name)
            if ours != theirs:
                raise self.refuse(
                    f"is for another target: {name} {ours}, and this one has {theirs}"
                )

    def tensors(self, unused: Iterable[str] = ()) -> dict[str, Tensor]:
        """All that it stores but `unused`, in float32."""
        files = sorted(self.path.glob("*.safetensors"))
        if not files:
            raise self.refuse("has no safetensors file")
        left_out = frozenset(unused)
        return {
            name: one.float()
            for file in files
            for name, one in load_file(file).items()
            if name not in left_out
        }

    def check_tensors(self, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless there are exactly tensors like the expected ones."""
        missing, surplus = (
            sorted(set(expected) - set(tensors)),
            sorted(set(tensors) - set(expected)),
        )
        if missing or surplus:
            what = f"lacks {missing[0]}" if missing else f"has {surplus[0]}, which nothing reads"
            raise self.refuse(what)
        for name, tensor in tensors.items():
            if tensor.shape != expected[name].shape:
                raise self.refuse(
                    f"has {name} of shape {list(tensor.shape)}; its config.json and its target ask "
                    f"for {list(expected[name].shape)}"
                )

    def load(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Give a module its tensors, which must be exactly those that it has."""
        self.check_tensors(tensors, module.state_dict())
        module.load_state_dict(dict(tensors))

"""Folders of P-EAGLE drafters, as the `speculators` package and vLLM read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, PretrainedConfig, PreTrainedModel

from specrt.train.eagle_drafter import EagleConfig, EagleDrafter, target_ends
from specrt.train.mask_drafter import copy_shared, new_folder

_TYPE = "peagle"
_FORMAT_VERSION = "0.9.0"  # of speculators, whose layout this is
_LAYER_KEYS = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "hidden_act"),
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("max_position_embeddings", "rms_norm_eps", "rope_parameters", "attention_bias", "mlp_bias"),
)
# Maps of tokens onto themselves, and what training compared with.
_UNUSED_TENSORS = frozenset({"d2t", "t2d", "verifier_lm_head.weight", "verifier_norm.weight"})
_FLAGS = ("norm_before_residual", "norm_before_fc", "fc_norm")


def target_layers_of(config: PretrainedConfig) -> tuple[int, ...]:
    """The layers that EAGLE-3 reads: an early, a middle and a late one. Raises ValueError."""
    layers: int = config.num_hidden_layers
    if layers < 7:
        raise ValueError(f"the target has {layers} layers; name those to read with --target-layers")
    return (2, layers // 2, layers - 3)


def check_target_layers(chosen: tuple[int, ...], config: PretrainedConfig) -> None:
    """Raise ValueError unless `chosen` are different layers of the target."""
    layers: int = config.num_hidden_layers
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= n < layers for n in chosen):
        raise ValueError(
            f"target layers must be different ones in [0, {layers - 1}], not {list(chosen)}"
        )


def write_eagle(drafter: EagleDrafter, depths: int, target: Path, out: Path) -> None:
    """Write a folder in bf16 with the tokenizer files of `target`; each file appears whole."""
    tensors = {
        name: one.detach().to("cpu", torch.bfloat16).contiguous()
        for name, one in drafter.state_dict().items()
    }
    with new_folder(out) as part:
        save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
        content = _config_json(drafter.config, depths, target)
        (part / "config.json").write_text(json.dumps(content, indent=2) + "\n")
        copy_shared(target, part)


def _config_json(config: EagleConfig, depths: int, target: Path) -> dict[str, Any]:
    verifier = json.loads((target / "config.json").read_text())
    return {
        "architectures": ["PEagleDraftModel"],
        "speculators_model_type": _TYPE,
        "speculators_version": _FORMAT_VERSION,
        "speculators_config": {
            "algorithm": _TYPE,
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": depths}],
            "verifier": {
                "name_or_path": str(target),
                "architectures": verifier.get("architectures") or [],
            },
        },
        "transformer_layer_config": {key: getattr(config.layer, key) for key in _LAYER_KEYS},
        "draft_vocab_size": config.layer.vocab_size,
        "eagle_aux_hidden_state_layer_ids": list(config.target_layers),
        "mask_token_id": config.mask_token,
        **{flag: getattr(config, flag) for flag in _FLAGS},
        "norm_output": False,
        "embed_requires_grad": True,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


@dataclass(frozen=True)
class _Folder:
    """A folder that is read, for messages that name it."""

    path: Path

    def refuse(self, why: str) -> ValueError:
        return ValueError(f"{self.path} {why}")

    def config(self) -> dict[str, Any]:
        try:
            content = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self.refuse(f"is no drafter: its config.json cannot be read ({error})") from None
        kind = content.get("speculators_model_type") if isinstance(content, dict) else None
        if kind != _TYPE:
            raise self.refuse(
                f"is no P-EAGLE drafter: speculators_model_type is {kind!r}, not {_TYPE!r}"
            )
        return dict(content)

    def tensors(self) -> dict[str, Tensor]:
        files = sorted(self.path.glob("*.safetensors"))
        if not files:
            raise self.refuse("has no safetensors file")
        return {
            name: one.float()
            for file in files
            for name, one in load_file(file).items()
            if name not in _UNUSED_TENSORS
        }


def read_eagle(folder: Path, target: PreTrainedModel) -> EagleDrafter:
    """The drafter of a folder, in float32; embedding and head that it lacks are the target's.

    Raises:
        ValueError: it is no P-EAGLE drafter, was made for another target, or its tensors do not fit
            its configuration; the message says which.
    """
    source = _Folder(folder)
    config = _eagle_config(source, source.config(), target.config)
    drafter = EagleDrafter(config)
    ends = target_ends(target)
    shared = {name: ends[name] for name in ("embed_tokens.weight", "lm_head.weight")}
    tensors = shared | source.tensors()
    expected = drafter.state_dict()
    missing, surplus = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or surplus:
        what = f"lacks {missing[0]}" if missing else f"has {surplus[0]}, which nothing reads"
        raise source.refuse(what)
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise source.refuse(
                f"has {name} of shape {list(tensor.shape)}; its config.json and its target ask "
                f"for {list(expected[name].shape)}"
            )
    drafter.load_state_dict(tensors)
    return drafter


def _eagle_config(
    source: _Folder, content: Mapping[str, Any], target: PretrainedConfig
) -> EagleConfig:
    stored = content.get("transformer_layer_config")
    kind = stored.get("model_type") if isinstance(stored, dict) else None
    if not isinstance(stored, dict) or kind != "llama":
        raise source.refuse(f"has layers of type {kind!r}; only llama is supported here")
    layer = LlamaConfig(**{key: one for key, one in stored.items() if key != "model_type"})
    _check_target(source, content, layer, target)
    chosen, mask = content.get("eagle_aux_hidden_state_layer_ids"), content.get("mask_token_id")
    try:
        layers = target_layers_of(target) if chosen is None else tuple(chosen)
        check_target_layers(layers, target)
    except (TypeError, ValueError) as error:
        raise source.refuse(f"does not fit this target: {error}") from None
    if isinstance(mask, bool) or not isinstance(mask, int) or not 0 <= mask < layer.vocab_size:
        raise source.refuse(f"has mask_token_id {mask!r}, no token below {layer.vocab_size}")
    flags = {flag: content.get(flag, False) is True for flag in _FLAGS}
    return EagleConfig(layer, layers, mask, **flags)


def _check_target(
    source: _Folder, content: Mapping[str, Any], layer: LlamaConfig, target: PretrainedConfig
) -> None:
    """Raise ValueError if the drafter was made for another target than this one."""
    sizes = {
        "hidden_size": (layer.hidden_size, target.hidden_size),
        "vocab_size": (layer.vocab_size, target.vocab_size),
    }
    for name, (ours, theirs) in sizes.items():
        if ours != theirs:
            raise source.refuse(f"is for another target: {name} {ours}, and this one has {theirs}")
    drafted = content.get("draft_vocab_size", layer.vocab_size)
    if drafted != layer.vocab_size:
        raise source.refuse(
            f"drafts {drafted} of {layer.vocab_size} tokens; a reduced vocabulary is not supported"
        )
    verifier = content.get("speculators_config", {}).get("verifier", {})
    made_for, here = verifier.get("architectures") or [], target.architectures or []
    if made_for and here and not set(made_for) & set(here):
        raise source.refuse(f"is for another target: {made_for[0]}, and this one is {here[0]}")

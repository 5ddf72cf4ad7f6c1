"""Folders of P-EAGLE drafters, as the `speculators` package and vLLM read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, PretrainedConfig, PreTrainedModel

from specrt.train.drafter_folder import DrafterFolder, layer_fields, write_drafter
from specrt.train.drafter_layers import target_ends
from specrt.train.eagle_drafter import EagleConfig, EagleDrafter

_TYPE = "peagle"
_FORMAT_VERSION = "0.9.0"  # of speculators, whose layout this is
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
    write_drafter(drafter.state_dict(), _config_json(drafter.config, depths, target), target, out)


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
        "transformer_layer_config": layer_fields(config.layer),
        "draft_vocab_size": config.layer.vocab_size,
        "eagle_aux_hidden_state_layer_ids": list(config.target_layers),
        "mask_token_id": config.mask_token,
        **{flag: getattr(config, flag) for flag in _FLAGS},
        "norm_output": False,
        "embed_requires_grad": True,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


def read_eagle(folder: Path, target: PreTrainedModel) -> EagleDrafter:
    """The drafter of a folder, in float32; embedding and head that it lacks are the target's.

    Raises:
        ValueError: it is no P-EAGLE drafter, was made for another target, or its tensors do not fit
            its configuration; the message says which.
    """
    source = DrafterFolder(folder)
    content = source.config("speculators_model_type", _TYPE, "P-EAGLE drafter")
    drafter = EagleDrafter(_eagle_config(source, content, target.config))
    ends = target_ends(target)
    shared = {name: ends[name] for name in ("embed_tokens.weight", "lm_head.weight")}
    source.load(drafter, shared | source.tensors(_UNUSED_TENSORS))
    return drafter


def _eagle_config(
    source: DrafterFolder, content: Mapping[str, Any], target: PretrainedConfig
) -> EagleConfig:
    layer = source.layer(content.get("transformer_layer_config"))
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
    source: DrafterFolder, content: Mapping[str, Any], layer: LlamaConfig, target: PretrainedConfig
) -> None:
    """Raise ValueError if the drafter was made for another target than this one."""
    source.check_sizes(layer.to_dict(), target)
    drafted = content.get("draft_vocab_size", layer.vocab_size)
    if drafted != layer.vocab_size:
        raise source.refuse(
            f"drafts {drafted} of {layer.vocab_size} tokens; a reduced vocabulary is not supported"
        )
    verifier = content.get("speculators_config", {}).get("verifier", {})
    made_for, here = verifier.get("architectures") or [], target.architectures or []
    if made_for and here and not set(made_for) & set(here):
        raise source.refuse(f"is for another target: {made_for[0]}, and this one is {here[0]}")

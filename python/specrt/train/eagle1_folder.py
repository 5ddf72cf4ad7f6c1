"""Folders of EAGLE-1 drafters, as its authors publish them; the head is the target's."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from specrt.train.drafter_folder import DrafterFolder, layer_fields, write_drafter
from specrt.train.eagle1_drafter import Eagle1Drafter

_TYPE = "eagle"


def write_eagle1(drafter: Eagle1Drafter, target: Path, out: Path) -> None:
    """Write a folder in bf16 with the tokenizer files of `target`; each file appears whole."""
    content = layer_fields(drafter.layer) | {
        "model_type": _TYPE,
        "architectures": ["EAGLEModel"],
        "fc_bias": True,
    }
    write_drafter(drafter.state_dict(), content, target, out)


def read_eagle1(folder: Path, target: PreTrainedModel) -> Eagle1Drafter:
    """The drafter of a folder, in float32.

    Raises:
        ValueError: it is no EAGLE-1 drafter, was made for another target, or its tensors do not fit
            its configuration; the message says which.
    """
    source = DrafterFolder(folder)
    content = source.config("model_type", _TYPE, "EAGLE-1 drafter")
    layer = source.layer(content | {"model_type": "llama"})
    source.check_sizes(layer.to_dict(), target.config)
    if layer.num_hidden_layers != 1 or content.get("fc_bias") is not True:
        raise source.refuse(
            f"has {layer.num_hidden_layers} layers and fc_bias {content.get('fc_bias')!r}; an "
            "EAGLE-1 drafter has one layer, and its fc a bias"
        )
    drafter = Eagle1Drafter(layer)
    source.load(drafter, source.tensors())
    return drafter

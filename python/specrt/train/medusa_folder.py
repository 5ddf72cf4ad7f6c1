"""Folders of Medusa heads, as FasterDecoding publishes them.

`config.json` has `medusa_num_heads` and `medusa_num_layers`; `medusa_lm_head.safetensors` has of
block L of head H `H.L.linear.weight` and `H.L.linear.bias`; `H.LAYERS.weight` is the output matrix.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from specrt.train.drafter_folder import DrafterFolder, write_drafter
from specrt.train.medusa_heads import MedusaConfig, MedusaHeads

WEIGHTS = "medusa_lm_head.safetensors"
_TYPE = "medusa"


def write_medusa(heads: MedusaHeads, target: Path, out: Path) -> None:
    """Write a folder in bf16 with the tokenizer files of `target`; each file appears whole."""
    config = heads.config
    content = {
        "model_type": _TYPE,
        "medusa_num_heads": config.heads,
        "medusa_num_layers": config.layers,
        "base_model_name_or_path": str(target),
        "hidden_size": config.width,
        "vocab_size": config.vocab,
    }
    state = heads.state_dict()
    tensors = {_published(name, config.layers): one for name, one in state.items()}
    write_drafter(tensors, content, target, out, WEIGHTS)


def read_medusa(folder: Path, target: PreTrainedModel) -> MedusaHeads:
    """The heads of a folder, in float32.

    Raises:
        ValueError: it holds no Medusa heads, was made for another target, or its tensors do not fit
            its configuration; the message says which.
    """
    source = DrafterFolder(folder)
    content = source.config("model_type", _TYPE, "folder of Medusa heads")
    source.check_sizes(content, target.config)
    config = MedusaConfig(
        source.count(content, "medusa_num_heads"),
        source.count(content, "medusa_num_layers"),
        target.config.hidden_size,
        target.config.vocab_size,
    )
    heads = MedusaHeads(config)
    own, tensors = heads.state_dict(), source.tensors()
    names = {name: _published(name, config.layers) for name in own}
    source.check_tensors(tensors, {names[name]: one for name, one in own.items()})
    heads.load_state_dict({name: tensors[names[name]] for name in own})
    return heads


def _published(name: str, layers: int) -> str:
    """The published name of a parameter: those of head H begin with it."""
    part, head, rest = name.split(".", 2)
    return f"{head}.{rest}" if part == "blocks" else f"{head}.{layers}.{rest}"

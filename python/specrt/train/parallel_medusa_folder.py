"""Folders of parallel Medusa drafters: mask, layers and norm; the head is the target's."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from specrt.build.files import weights_hash
from specrt.train.drafter_folder import DrafterFolder, layer_fields, write_drafter
from specrt.train.parallel_medusa_drafter import ParallelMedusaDrafter

_TYPE = "parallel_medusa"


def write_parallel_medusa(
    drafter: ParallelMedusaDrafter, depths: int, target: Path, out: Path
) -> None:
    """Write a folder in bf16 with the tokenizer files of `target`; each file appears whole."""
    content = {
        "model_type": _TYPE,
        "architectures": ["ParallelMedusa"],
        "depths": depths,
        "layer": layer_fields(drafter.layer),
        "target_sha256": weights_hash(target),
    }
    write_drafter(drafter.state_dict(), content, target, out)


def read_parallel_medusa(
    folder: Path, target: PreTrainedModel, base: Path
) -> ParallelMedusaDrafter:
    """The drafter of a folder, in float32, for the target of folder `base`.

    Raises:
        ValueError: it is no parallel Medusa drafter, was made for another target, or its tensors do
            not fit its configuration; the message says which.
    """
    source = DrafterFolder(folder)
    content = source.config("model_type", _TYPE, "parallel Medusa drafter")
    layer = source.layer(content.get("layer"))
    source.check_sizes(layer.to_dict(), target.config)
    if content.get("target_sha256") != weights_hash(base):
        raise source.refuse(f"was trained for other weights than those of {base}")
    drafter = ParallelMedusaDrafter(layer)
    source.load(drafter, source.tensors())
    return drafter

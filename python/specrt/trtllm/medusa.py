"""Medusa heads as FasterDecoding publishes them: a folder beside the model that they belong to.

`config.json` has `medusa_num_heads` and `medusa_num_layers`; `medusa_lm_head.safetensors` has of
block L of head H `H.L.linear.weight` and `H.L.linear.bias`; `H.LAYERS.weight` is the output matrix.
"""

import re
from dataclasses import replace
from pathlib import Path

from specrt.build.checkpoint import Checkpoint
from specrt.build.errors import BuildError
from specrt.build.fields import Fields
from specrt.build.hf import CONFIG, tensor_name
from specrt.build.json_file import read_json
from specrt.build.safetensors_file import read_tensor_table
from specrt.trtllm.unified import MedusaHeads

WEIGHTS = "medusa_lm_head.safetensors"
_PREFIX = "medusa."  # of parameters
_HEADS_KEY = "medusa_num_heads"
_LAYERS_KEY = "medusa_num_layers"
_MOST = 16
_HEAD = re.compile(r"(\d{1,4})\.")


def is_medusa(folder: Path) -> bool:
    """Whether a folder's config says that it holds Medusa heads."""
    path = folder / CONFIG
    return path.exists() and _HEADS_KEY in read_json(path)


def read_medusa(folder: Path, base: Checkpoint) -> tuple[MedusaHeads, Checkpoint]:
    """The heads of a folder, and the tensors of `base` and of the heads together.

    Published folders have more heads than their config says; all that are there count. Raises
    BuildError.
    """
    path = folder / CONFIG
    fields = Fields(str(path), read_json(path))
    told = fields.integer(_HEADS_KEY, _MOST)
    layers = fields.integer(_LAYERS_KEY, _MOST, 1)
    if not (folder / WEIGHTS).exists():
        raise BuildError(
            f"{folder} has no {WEIGHTS}; save its medusa_lm_head.pt with safetensors' save_file"
        )
    tensors = read_tensor_table(folder / WEIGHTS)
    numbers = {int(match[1]) for name in tensors if (match := _HEAD.match(name))}
    heads = max(numbers, default=-1) + 1
    if heads < told or len(numbers) != heads or heads > _MOST:
        raise BuildError(
            f"{folder / WEIGHTS} has the heads {sorted(numbers)}, but {CONFIG} says {told}"
        )
    merged = replace(base, tensors={**base.tensors, **tensors}, names=_stored_name)
    return MedusaHeads(heads, layers), merged


def _stored_name(parameter: str) -> str:
    if parameter.startswith(_PREFIX):
        return parameter.removeprefix(_PREFIX)
    return tensor_name(parameter)

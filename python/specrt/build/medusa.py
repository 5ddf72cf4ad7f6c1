"""Medusa heads as FasterDecoding publishes them: a folder beside the model that they belong to.

`config.json` has `medusa_num_heads` and `medusa_num_layers`; `medusa_lm_head.safetensors` has of
block L of head H `H.L.linear.weight` and `H.L.linear.bias`; `H.LAYERS.weight` is the output matrix.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from specrt.build.checkpoint import Checkpoint
from specrt.build.config import MAX_DIM, MAX_VOCAB, Medusa, ModelConfig
from specrt.build.errors import BuildError
from specrt.build.fields import Fields
from specrt.build.hf import CONFIG, tensor_name
from specrt.build.json_file import read_json
from specrt.build.safetensors_file import StoredTensor, read_tensor_table

WEIGHTS = "medusa_lm_head.safetensors"
_PREFIX = "medusa."  # of parameters
_HEADS_KEY = "medusa_num_heads"
_BLOCKS_KEY = "medusa_num_layers"
_MOST = 16
_HEAD = re.compile(r"(\d{1,4})\.")


@dataclass(frozen=True)
class Heads:
    """The heads of a folder, with blocks before each output matrix, and their tensors."""

    heads: int
    blocks: int
    tensors: Mapping[str, StoredTensor]


def is_medusa(folder: Path) -> bool:
    """Whether a folder's config says that it holds Medusa heads."""
    path = folder / CONFIG
    return path.exists() and _HEADS_KEY in read_json(path)


def read_heads(folder: Path) -> Heads:
    """The heads of a folder.

    Published folders have more heads than their config says; all that are there count. Raises
    BuildError.
    """
    path = folder / CONFIG
    fields = Fields(str(path), read_json(path))
    told = fields.integer(_HEADS_KEY, _MOST)
    blocks = fields.integer(_BLOCKS_KEY, _MOST, 1)
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
    return Heads(heads, blocks, tensors)


def stored_name(parameter: str) -> str:
    """Name in a checkpoint of specrt's parameter, of the heads or of the model."""
    if parameter.startswith(_PREFIX):
        return parameter.removeprefix(_PREFIX)
    return tensor_name(parameter)


def read_drafter(folder: Path, target: ModelConfig, max_context: int | None) -> ModelConfig:
    """Plan the heads of a folder as a drafter for `target`. Raises BuildError."""
    path = folder / CONFIG
    fields = Fields(str(path), read_json(path))
    sizes = {"hidden_size": (target.width, MAX_DIM), "vocab_size": (target.vocab, MAX_VOCAB)}
    for key, (own, most) in sizes.items():
        if fields.integer(key, most, own) != own:
            raise BuildError(f"{path}: {key} is not the target's {own}; the heads are of another")
    heads = read_heads(folder)
    context = min(target.context - 1, max_context or target.context)
    return replace(
        target,
        layers=0,
        context=context,
        tied=False,
        eos=(),
        mask_token=0,  # no head reads tokens
        features=Medusa(heads.heads, heads.blocks),
        kept_layers=(),
        streaming=None,
        windows=(),
    )


def open_drafter(folder: Path) -> Checkpoint:
    """Open the tensors of the heads. Raises BuildError."""
    return Checkpoint(folder, read_heads(folder).tensors, (WEIGHTS,), stored_name)

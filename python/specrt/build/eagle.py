"""Everything that specrt knows about folders of EAGLE drafters, as SafeAILab publishes them.

They look like those of a Llama model with one layer, but have an `fc` and neither a last norm nor a
head. A config key is honoured, harmless, or refused by name.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from specrt.build.checkpoint import INDEX, WEIGHTS, Checkpoint, open_checkpoint
from specrt.build.config import Eagle1, ModelConfig
from specrt.build.errors import BuildError
from specrt.build.hf import CONFIG, decoder_config, tensor_name
from specrt.build.json_file import read_json
from specrt.build.speculators import check_target

MODEL_TYPE = "eagle"
_FC, _FC_BIAS = "fc.weight", "fc.bias"
_GLOBAL_TENSORS = {"fc": _FC, "fc_bias": _FC_BIAS}
# What says of the folder what its tensors say as well.
_KEYS = frozenset({"architectures", "bias", "fc_bias"})


def is_eagle(folder: Path) -> bool:
    """Whether a folder holds such a drafter, by its config or its tensors. Raises BuildError."""
    if read_json(folder / CONFIG).get("model_type") == MODEL_TYPE:
        return True
    found = (folder / WEIGHTS).exists() or (folder / INDEX).exists()
    return found and _FC in open_checkpoint(folder).tensors


def stored_name(parameter: str) -> str:
    """Name in the checkpoint of specrt's parameter."""
    if parameter in _GLOBAL_TENSORS:
        return _GLOBAL_TENSORS[parameter]
    return tensor_name(parameter).removeprefix("model.")


def _decoder(raw: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in raw.items() if key not in _KEYS}
    return kept | ({"model_type": "llama"} if raw.get("model_type") == MODEL_TYPE else {})


def read_drafter(folder: Path, target: ModelConfig, max_context: int | None) -> ModelConfig:
    """Read and check config.json of a drafter for `target`. Raises BuildError."""
    path = folder / CONFIG
    config = decoder_config(path, _decoder(read_json(path)), max_context)
    if config.architecture != "llama":
        raise BuildError(
            f"{path}: an EAGLE drafter of model_type {config.architecture!r}; specrt builds llama"
        )
    check_target(path, config, target)
    bias = _FC_BIAS in open_checkpoint(folder).tensors
    context = min(config.context, target.context - 1)
    return replace(config, context=context, tied=False, features=Eagle1(bias))


def open_drafter(folder: Path, target: Checkpoint, *, tied: bool) -> Checkpoint:
    """Open a drafter's tensors; its head, and an embedding that it lacks, are the target's."""
    own = open_checkpoint(folder)
    tensors = dict(own.tensors)
    for parameter, source in {"embed": "embed", "head": "embed" if tied else "head"}.items():
        stored = target.tensors.get(target.names(source))
        if stored is not None:
            tensors.setdefault(stored_name(parameter), stored)
    return replace(own, tensors=tensors, names=stored_name)

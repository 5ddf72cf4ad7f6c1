"""Everything that specrt knows about parallel Medusa drafters: folders of `specrt train`.

Such a drafter belongs to one target, whose weights it names by their hash. A config key is honoured
or refused by name.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from specrt.build.checkpoint import Checkpoint, open_checkpoint
from specrt.build.config import ModelConfig, ParallelMedusa
from specrt.build.errors import BuildError
from specrt.build.files import weights_hash
from specrt.build.hf import CONFIG, decoder_config, tensor_name
from specrt.build.json_file import read_json

MODEL_TYPE = "parallel_medusa"
_LAYER = "layer"
_KEYS = frozenset({"architectures", "depths", "dtype", _LAYER, "model_type", "target_sha256"})
_MASK = "mask_hidden"


def is_parallel_medusa(folder: Path) -> bool:
    """Whether a folder's config.json is of this form. Raises BuildError."""
    return read_json(folder / CONFIG).get("model_type") == MODEL_TYPE


def stored_name(parameter: str) -> str:
    """Name in the checkpoint of specrt's parameter."""
    return parameter if parameter == _MASK else tensor_name(parameter).removeprefix("model.")


def _check_target(path: Path, raw: Mapping[str, Any], config: ModelConfig, base: Path) -> None:
    if raw.get("target_sha256") != weights_hash(base):
        raise BuildError(
            f"{path}: target_sha256 is not the hash of the weights in {base}; the drafter was "
            "trained for another target, or the target has changed since. Train it again with: "
            f"specrt train parallel-medusa --target {base}"
        )
    if config.architecture != "llama":
        raise BuildError(
            f"{path}: layers of model_type {config.architecture!r}; specrt builds those of llama"
        )


def read_drafter(
    folder: Path, target: ModelConfig, base: Path, max_context: int | None
) -> ModelConfig:
    """Read and check config.json of a drafter for the target in `base`. Raises BuildError."""
    path = folder / CONFIG
    raw = read_json(path)
    unknown = sorted(set(raw) - _KEYS)
    if unknown:
        raise BuildError(f"{path} has keys that specrt does not know: {', '.join(unknown)}")
    layer = raw.get(_LAYER)
    if not isinstance(layer, dict):
        raise BuildError(f"{path}: {_LAYER} must be an object, not {layer!r}")
    config = decoder_config(f"{path}: {_LAYER}", layer, max_context)
    _check_target(path, raw, config, base)
    context = min(config.context, target.context - 1)
    # No row reads a token, so any stands for a mask.
    return replace(config, context=context, tied=False, mask_token=0, features=ParallelMedusa())


def open_drafter(folder: Path, target: Checkpoint, *, tied: bool) -> Checkpoint:
    """Open a drafter's tensors; its head is the target's. Raises BuildError."""
    own = open_checkpoint(folder)
    head = target.tensors.get(target.names("embed" if tied else "head"))
    tensors = {**own.tensors, **({} if head is None else {stored_name("head"): head})}
    return replace(own, tensors=tensors, names=stored_name)

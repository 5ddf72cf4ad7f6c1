"""Everything that specrt knows about streaming adapters: folders of `specrt train streaming`.

An adapter gives a target streams in its last layers, with which it drafts for itself (Speculative
Streaming, arXiv 2402.11131). It belongs to one target, whose weights it names by their hash. A
config key is honoured, harmless, or refused by name.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from specrt.build.architectures.streams import ADAPTER
from specrt.build.checkpoint import Checkpoint, open_checkpoint
from specrt.build.config import LORA_MODULES, MAX_DIM, MAX_STREAMS, ModelConfig, Streaming
from specrt.build.errors import BuildError
from specrt.build.fields import Fields
from specrt.build.files import weights_hash
from specrt.build.hf import CONFIG
from specrt.build.json_file import read_json
from specrt.build.safetensors_file import StoredTensor

MODEL_TYPE = "speculative_streaming"
_POSITIONS = {"shifted": True, "same": False}
_KEYS = frozenset(
    {
        "architectures",
        "base_sha256",
        "dtype",
        "hidden_size",
        "lora_modules",
        "lora_rank",
        "model_type",
        "num_hidden_layers",
        "prune_rank",
        "stream_layers",
        "stream_positions",
        "streams",
        "vocab_size",
    }
)


def is_adapter(folder: Path) -> bool:
    """Whether a folder's config.json is that of a streaming adapter. Raises BuildError."""
    return read_json(folder / CONFIG).get("model_type") == MODEL_TYPE


def _check_base(path: Path, raw: Mapping[str, Any], config: ModelConfig, base: Path) -> None:
    """Raise BuildError unless the adapter was trained for the model in `base`."""
    fields = Fields(str(path), raw)
    shape = {"hidden_size": config.width, "num_hidden_layers": config.layers}
    for key, own in (shape | {"vocab_size": config.vocab}).items():
        value = fields.integer(key, MAX_DIM * 4)
        if value != own:
            raise BuildError(
                f"{path}: {key} {value} where the target has {own}; the adapter belongs to another "
                "target"
            )
    if raw.get("base_sha256") != weights_hash(base):
        raise BuildError(
            f"{path}: base_sha256 is not the hash of the weights in {base}; the adapter was "
            "trained for another target, or the target has changed since. Train it again with: "
            f"specrt train streaming --target {base}"
        )


def _modules(path: Path, raw: Mapping[str, Any]) -> tuple[str, ...]:
    modules = raw.get("lora_modules", [])
    if not isinstance(modules, list) or len(set(map(str, modules))) != len(modules):
        raise BuildError(f"{path}: lora_modules {modules!r} is not a list of different modules")
    for module in modules:
        if module not in LORA_MODULES:
            raise BuildError(
                f"{path}: lora_modules has {module!r}; there are {', '.join(LORA_MODULES)}"
            )
    return tuple(modules)


def read_adapter(folder: Path, target: ModelConfig, base: Path) -> Streaming:
    """Read and check config.json of an adapter for the target in `base`. Raises BuildError."""
    path = folder / CONFIG
    raw = read_json(path)
    unknown = sorted(set(raw) - _KEYS)
    if unknown:
        raise BuildError(f"{path} has keys that specrt does not know: {', '.join(unknown)}")
    _check_base(path, raw, target, base)
    fields = Fields(str(path), raw)
    layers = fields.integer("stream_layers", MAX_DIM)
    if layers > target.layers:
        raise BuildError(f"{path}: stream_layers {layers} of a target with {target.layers} layers")
    positions = raw.get("stream_positions")
    if positions not in _POSITIONS:
        raise BuildError(
            f"{path}: stream_positions {positions!r} is not one of {', '.join(_POSITIONS)}"
        )
    modules = _modules(path, raw)
    return Streaming(
        streams=fields.integer("streams", MAX_STREAMS),
        layers=layers,
        shifted=_POSITIONS[positions],
        lora_rank=fields.integer("lora_rank", MAX_DIM) if modules else 0,
        lora_modules=modules,
        prune_rank=fields.integer("prune_rank", MAX_DIM),
    )


def with_adapter(target: Checkpoint, folder: Path) -> Checkpoint:
    """A target's tensors and those of its adapter, under the names of graphs. Raises BuildError."""
    adapter = open_checkpoint(folder)
    tensors: dict[str, StoredTensor] = dict(target.tensors)
    tensors |= {ADAPTER + name: stored for name, stored in adapter.tensors.items()}

    def names(parameter: str) -> str:
        return parameter if parameter.startswith(ADAPTER) else target.names(parameter)

    return replace(target, tensors=tensors, names=names)


def extra_parameters(adapter: Checkpoint) -> dict[str, int]:
    """Numbers that an adapter adds: embeddings and pruning, as the paper counts, and LoRA."""
    counts = {"streams": 0, "lora": 0}
    for name, stored in adapter.tensors.items():
        size = 1
        for extent in stored.shape:
            size *= extent
        counts["lora" if name.startswith("layers.") else "streams"] += size
    return counts

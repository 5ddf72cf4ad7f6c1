"""Everything that specrt knows about EAGLE-3 folders as SafeAILab and SpecForge publish them.

They have the computation of vLLM's speculators under other names: `midlayer` is the one layer, and
config.json is that of a Llama model besides `draft_vocab_size`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from specrt.build import speculators
from specrt.build.checkpoint import Checkpoint
from specrt.build.config import MAX_DIM, Eagle, InputNorm, ModelConfig
from specrt.build.errors import BuildError
from specrt.build.fields import Fields
from specrt.build.hf import CONFIG, decoder_config
from specrt.build.json_file import read_json

ARCHITECTURE = "LlamaForCausalLMEagle3"
_KEYS = frozenset({"architectures", "draft_vocab_size", "target_hidden_size", "target_model_type"})
_LAYER, _PUBLISHED_LAYER = "layers.0.", "midlayer."


def is_eagle3(folder: Path) -> bool:
    """Whether a folder's config.json is of this form. Raises BuildError."""
    return ARCHITECTURE in (read_json(folder / CONFIG).get("architectures") or [])


def stored_name(parameter: str) -> str:
    """Name in the checkpoint of specrt's parameter."""
    name = speculators.stored_name(parameter)
    if name.startswith(_LAYER):
        return _PUBLISHED_LAYER + name.removeprefix(_LAYER)
    return name


def read_drafter(folder: Path, target: ModelConfig, max_context: int | None) -> ModelConfig:
    """Read and check config.json of a drafter for `target`. Raises BuildError."""
    path = folder / CONFIG
    raw: dict[str, Any] = read_json(path)
    decoder = {key: value for key, value in raw.items() if key not in _KEYS}
    config = decoder_config(path, decoder, max_context)
    if config.architecture != "llama" or config.layers != 1:
        raise BuildError(
            f"{path}: {config.layers} layers of model_type {config.architecture!r}; an EAGLE-3 "
            "drafter has one of llama"
        )
    speculators.check_target(path, config, target)
    fields = Fields(str(path), raw)
    if fields.integer("target_hidden_size", MAX_DIM, target.width) != target.width:
        raise BuildError(f"{path}: target_hidden_size is not the target's {target.width}")
    count = fields.integer("draft_vocab_size", config.vocab, config.vocab)
    eagle = Eagle(
        read_layers=speculators.read_layers(path, {}, target),
        norm_before_residual=False,
        input_norm=InputNorm.NONE,
        masks=False,
        draft_tokens=speculators.draft_tokens(folder, count, config.vocab),
    )
    context = min(config.context, target.context - 1)
    return replace(config, context=context, tied=False, mask_token=None, features=eagle)


def open_drafter(folder: Path, target: Checkpoint, *, tied: bool) -> Checkpoint:
    """Open a drafter's tensors; what it shares with its target is the target's. Raises BuildError.

    `tied` says that the target's output matrix is its embedding.
    """
    return replace(speculators.open_drafter(folder, target, tied=tied), names=stored_name)

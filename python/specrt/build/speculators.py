"""Everything that specrt knows about drafters in the form of vLLM's speculators.

Folders of P-EAGLE and EAGLE-3. As with models, a config key is honoured, harmless, or refused by
name.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from specrt.build.architectures.eagle3 import TRAITS
from specrt.build.checkpoint import Checkpoint, open_checkpoint
from specrt.build.config import MAX_DIM, Eagle, InputNorm, ModelConfig
from specrt.build.errors import BuildError
from specrt.build.fields import Fields
from specrt.build.hf import CONFIG, decoder_config, tensor_name
from specrt.build.json_file import read_json

_KIND = "speculators_model_type"
_KINDS = ("peagle", "eagle3")
_LAYERS = "eagle_aux_hidden_state_layer_ids"
_DECODER = "transformer_layer_config"
_HONOURED = frozenset(
    {
        _KIND,
        _LAYERS,
        _DECODER,
        "draft_vocab_size",
        "fc_norm",
        "mask_token_id",
        "norm_before_fc",
        "norm_before_residual",
        "norm_output",
        "target_hidden_size",
    }
)
_HARMLESS = frozenset(
    {
        "architectures",
        "auto_map",
        "dtype",
        "embed_requires_grad",
        "has_no_defaults_at_init",
        "model_type",
        "speculators_config",
        "speculators_version",
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
    }
)
_GLOBAL_TENSORS = {
    "fc": "fc.weight",
    "input_norm": "input_norm.weight",
    "mask_hidden": "mask_hidden",
}
_DRAFT_TOKENS = "d2t"  # how far behind its place in the draft vocabulary a token's number is
# What is read apart, and what training compared with.
_UNUSED_TENSORS = frozenset(
    {_DRAFT_TOKENS, "t2d", "verifier_lm_head.weight", "verifier_norm.weight"}
)


def is_speculator(folder: Path) -> bool:
    """Whether a folder's config.json is of this form. Raises BuildError."""
    return _KIND in read_json(folder / CONFIG)


def stored_name(parameter: str) -> str:
    """Name in the checkpoint of specrt's parameter."""
    if parameter in _GLOBAL_TENSORS:
        return _GLOBAL_TENSORS[parameter]
    if parameter.startswith("fc_norm.") or parameter.endswith(".hidden_norm"):
        return f"{parameter}.weight"
    return tensor_name(parameter).removeprefix("model.")


def read_layers(path: Path, raw: Mapping[str, Any], target: ModelConfig) -> tuple[int, ...]:
    """Layers of the target whose hidden states are read. Raises BuildError."""
    layers = raw.get(_LAYERS)
    if layers is None:
        layers = [2, target.layers // 2, target.layers - 3]
    numbers = isinstance(layers, list) and all(type(each) is int for each in layers)
    if not numbers or not layers or len(set(layers)) != len(layers):
        raise BuildError(f"{path}: {_LAYERS} {layers!r} are not different numbers of layers")
    if not all(0 <= each <= target.layers for each in layers):
        raise BuildError(
            f"{path}: {_LAYERS} {layers} go beyond the {target.layers} layers of the target; the "
            "drafter belongs to another target"
        )
    return tuple(layers)


def _input_norm(fields: Fields) -> InputNorm:
    if fields.flag("norm_before_fc", default=False):
        if fields.flag("fc_norm", default=False):
            raise BuildError(f"{fields.origin}: norm_before_fc and fc_norm exclude each other")
        return InputNorm.ALL
    return InputNorm.EACH if fields.flag("fc_norm", default=False) else InputNorm.NONE


def _check_keys(path: Path, raw: Mapping[str, Any]) -> None:
    if raw[_KIND] not in _KINDS:
        raise BuildError(
            f"{path}: {_KIND} {raw[_KIND]!r} is not supported; specrt builds {', '.join(_KINDS)}"
        )
    known = _HONOURED | _HARMLESS
    unknown = sorted(key for key, value in raw.items() if key not in known and value is not None)
    if unknown:
        raise BuildError(
            f"{path} has keys that specrt does not know: {', '.join(map(repr, unknown))}. They may "
            "change what the drafter computes. If they do not, remove them from the file and build "
            "again"
        )


def check_target(path: Path, config: ModelConfig, target: ModelConfig) -> None:
    """Raise BuildError unless a drafter's width and vocabulary are those of its target."""
    if config.width != target.width:
        raise BuildError(
            f"{path}: the drafter has a hidden_size of {config.width} and the target of "
            f"{target.width}; the drafter belongs to another target"
        )
    if config.vocab != target.vocab:
        raise BuildError(
            f"{path}: the drafter has {config.vocab} tokens and the target {target.vocab}; use a "
            "drafter trained for this target"
        )


def draft_tokens(folder: Path, count: int, vocab: int) -> tuple[int, ...]:
    """The tokens of a drafter that knows `count` of its target's; (): all. Raises BuildError."""
    if count == vocab:
        return ()
    stored = open_checkpoint(folder).tensors.get(_DRAFT_TOKENS)
    if stored is None:
        raise BuildError(
            f"{folder}: draft_vocab_size {count} is below the target's {vocab} tokens, and there "
            f"is no {_DRAFT_TOKENS} that says which"
        )
    offsets = stored.read_integers()
    tokens = offsets + np.arange(len(offsets))
    if (
        len(tokens) != count
        or len(set(tokens.tolist())) != count
        or not ((tokens >= 0) & (tokens < vocab)).all()
    ):
        raise BuildError(
            f"{stored.file}: {_DRAFT_TOKENS} does not name {count} different tokens below {vocab}"
        )
    return tuple(tokens.tolist())


def _mask(path: Path, raw: Mapping[str, Any], vocab: int) -> int:
    mask = raw.get("mask_token_id")
    if type(mask) is not int or not 0 <= mask < vocab:
        raise BuildError(f"{path}: mask_token_id {mask!r} is not a token below {vocab}")
    return mask


def read_drafter(folder: Path, target: ModelConfig, max_context: int | None) -> ModelConfig:
    """Read and check config.json of a drafter for `target`. Raises BuildError."""
    path = folder / CONFIG
    raw = read_json(path)
    _check_keys(path, raw)
    inner = raw.get(_DECODER)
    if not isinstance(inner, dict):
        raise BuildError(f"{path}: {_DECODER} must be an object, not {inner!r}")
    config = decoder_config(f"{path}: {_DECODER}", inner, max_context)
    if config.architecture not in TRAITS:
        raise BuildError(
            f"{path}: a drafter of model_type {config.architecture!r} is not supported; specrt "
            f"builds {', '.join(TRAITS)}"
        )
    check_target(path, config, target)
    fields = Fields(str(path), raw)
    if fields.integer("target_hidden_size", MAX_DIM, target.width) != target.width:
        raise BuildError(f"{path}: target_hidden_size is not the target's {target.width}")
    count = fields.integer("draft_vocab_size", config.vocab, config.vocab)
    masks = raw[_KIND] == "peagle"
    mask = _mask(path, raw, config.vocab) if masks else None
    eagle = Eagle(
        read_layers=read_layers(path, raw, target),
        norm_before_residual=fields.flag("norm_before_residual", default=False),
        input_norm=_input_norm(fields),
        masks=masks,
        norm_output=fields.flag("norm_output", default=False),
        draft_tokens=draft_tokens(folder, count, config.vocab),
    )
    # A pair at position p reads token p + 1, which must lie within the target's context.
    context = min(config.context, target.context - 1)
    return replace(config, context=context, tied=False, mask_token=mask, features=eagle)


def open_drafter(folder: Path, target: Checkpoint, *, tied: bool) -> Checkpoint:
    """Open a drafter's tensors; what it shares with its target is the target's. Raises BuildError.

    `tied` says that the target's output matrix is its embedding.
    """
    own = open_checkpoint(folder)
    tensors = {name: each for name, each in own.tensors.items() if name not in _UNUSED_TENSORS}
    shared = {"embed": "embed", "head": "embed" if tied else "head"}
    for parameter, source in shared.items():
        stored = target.tensors.get(target.names(source))
        if stored is not None:
            tensors.setdefault(stored_name(parameter), stored)
    return replace(own, tensors=tensors, names=stored_name)

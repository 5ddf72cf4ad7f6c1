"""Everything that specrt knows about Hugging Face model folders: config keys and tensor names.

A config key is honoured, harmless, or refused by name. Keys that are not listed here may change
what a model computes and are refused too.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from specrt.build import config as limits
from specrt.build.config import Llama3Scaling, ModelConfig, Rope
from specrt.build.errors import BuildError
from specrt.build.fields import Fields
from specrt.build.json_file import read_json

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
ARCHITECTURES = {  # model_type -> the class that is built
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# What transformers takes for a key that is not there (null is a value), where it is not Llama's.
_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {
        "num_key_value_heads": 32,
        "head_dim": 128,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
}

_DEFAULT_THETA = 10000.0
_HONOURED = frozenset(
    {
        "architectures",
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "max_position_embeddings",
        "tie_word_embeddings",
        "eos_token_id",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "original_max_position_embeddings",
        "layer_types",
        "pard_token",
    }
)

# Honoured beside these: what says which layers have a window.
_WINDOW_KEYS: Mapping[str, frozenset[str]] = {
    "llama": frozenset(),
    "mistral": frozenset({"sliding_window"}),
    "qwen2": frozenset({"sliding_window", "use_sliding_window", "max_window_layers"}),
    "qwen3": frozenset({"sliding_window", "use_sliding_window", "max_window_layers"}),
}

# Keys that may be present only with these values, because specrt computes nothing else.
_FIXED: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "pretraining_tp": (1,),
    "partial_rotary_factor": (1.0,),
    "sliding_window": (),
    "use_sliding_window": (False,),
    "use_mrope": (False,),
    "quantization_config": (),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "rope_interleaved": (False,),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({},),
    "cross_attention_hidden_size": (),
    "auto_map": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "bad_words_ids": (),
    "exponential_decay_length_penalty": (),
}

# Keys that do not change the logits: training, bookkeeping, and defaults of generate().
_HARMLESS = frozenset(
    {
        "is_decoder",
        "is_llama_config",
        "_attn_implementation_autoset",
        "_name_or_path",
        "attention_dropout",
        "bos_token_id",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dropout",
        "dtype",
        "early_stopping",
        "embd_pdrop",
        "encoder_no_repeat_ngram_size",
        "finetuning_task",
        "hidden_dropout",
        "id2label",
        "initializer_range",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_labels",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "parallel_depths",
        "pad_token_id",
        "prefix",
        "problem_type",
        "remove_invalid_values",
        "repetition_penalty",
        "resid_pdrop",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "spd_type",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "typical_p",
        "unk_token_id",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
    }
)

_GLOBAL_TENSORS = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}
_LAYER_TENSORS = {
    "attention_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
}
# Old checkpoints store what transformers recomputes.
_RECOMPUTED = re.compile(
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq|model\.rotary_emb\.inv_freq"
)


def tensor_name(parameter: str) -> str:
    """Name in the checkpoint of specrt's parameter `embed`, `layers.3.q`, ..."""
    if parameter in _GLOBAL_TENSORS:
        return _GLOBAL_TENSORS[parameter]
    _, layer, name = parameter.split(".")
    return f"model.layers.{layer}.{_LAYER_TENSORS[name]}"


def unused_tensors(present: Iterable[str], used: Iterable[str]) -> list[str]:
    """Tensors that a checkpoint has beyond those used and those that are recomputed anyway."""
    return sorted(n for n in set(present) - set(used) if not _RECOMPUTED.fullmatch(n))


def _is_same(value: object, allowed: object) -> bool:
    """Equal as JSON: 1 and 1.0 are the same, 1 and true are not."""
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)


def _check_keys(path: Path | str, raw: Mapping[str, Any], kind: str) -> None:
    """Raise BuildError for keys that are not honoured. Null means not used, for every key."""
    for key, allowed in _FIXED.items():
        value = None if key in _WINDOW_KEYS[kind] else raw.get(key)
        if value is not None and not any(_is_same(value, each) for each in allowed):
            expected = " or ".join(repr(each) for each in allowed) or "null"
            raise BuildError(
                f"{path}: {key} = {value!r} is not supported (only {expected}); "
                "this model cannot be built"
            )
    known = _HONOURED | _WINDOW_KEYS[kind] | _FIXED.keys() | _HARMLESS
    unknown = sorted(key for key, value in raw.items() if key not in known and value is not None)
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise BuildError(
            f"{path} has keys that specrt does not know: {names}. They may change what the model "
            "computes. If they do not, remove them from the file and build again"
        )


def _llama3(rope: Fields, context: int) -> Llama3Scaling:
    original = rope.integer("original_max_position_embeddings", limits.MAX_CONTEXT, context)
    scaling = Llama3Scaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_context=original,
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise BuildError(f"{rope.origin}: high_freq_factor must be above low_freq_factor")
    return scaling


def _read_rope(path: Path | str, raw: Mapping[str, Any], context: int) -> Rope:
    """Rotary settings: `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`."""
    forms = [key for key in ("rope_parameters", "rope_scaling") if raw.get(key)]
    if len(forms) == 2 and raw["rope_parameters"] != raw["rope_scaling"]:
        raise BuildError(f"{path}: rope_parameters and rope_scaling differ; remove one of them")
    inner = raw[forms[0]] if forms else {}
    origin = f"{path}: {forms[0]}" if forms else str(path)
    if not isinstance(inner, dict):
        raise BuildError(f"{origin} must be an object, not {inner!r}")
    settings = {key: value for key, value in inner.items() if value is not None}
    kind = settings.pop("rope_type", settings.get("type", "default"))
    if settings.pop("type", kind) != kind:
        raise BuildError(f"{origin}: rope_type and type differ; remove one of them")
    theta = raw.get("rope_theta")
    if theta is not None and settings.setdefault("rope_theta", theta) != theta:
        raise BuildError(f"{origin}: rope_theta differs from the one outside; remove one of them")
    if settings.pop("partial_rotary_factor", 1.0) != 1.0:
        raise BuildError(f"{origin}: partial_rotary_factor is not supported")
    original = raw.get("original_max_position_embeddings")
    if original is not None:
        settings["original_max_position_embeddings"] = original
    fields = Fields(origin, settings)
    rope_theta = fields.number("rope_theta", _DEFAULT_THETA)
    if kind == "default":
        # Without scaling the length that a model was first trained for has no effect.
        used, scaling = {"rope_theta", "original_max_position_embeddings"}, None
    elif kind == "llama3":
        scaling = _llama3(fields, context)
        used = {"rope_theta", "factor", "low_freq_factor", "high_freq_factor"}
        used.add("original_max_position_embeddings")
    else:
        raise BuildError(f"{origin}: rope type {kind!r} is not supported (default, llama3 are)")
    unknown = sorted(settings.keys() - used)
    if unknown:
        raise BuildError(
            f"{origin}: {', '.join(map(repr, unknown))} of rope type {kind!r} is not supported"
        )
    return Rope(rope_theta, scaling)


def _read_windows(
    path: Path | str, raw: Mapping[str, Any], kind: str, layers: int
) -> tuple[int, ...]:
    """Window of every layer, 0 for none; () where no layer has one."""
    fields, size, first = Fields(str(path), raw), 0, 0
    is_qwen = "use_sliding_window" in _WINDOW_KEYS[kind]
    used = fields.flag("use_sliding_window", default=False) if is_qwen else kind == "mistral"
    if used and raw.get("sliding_window") is not None:
        size = fields.integer("sliding_window", limits.MAX_WINDOW)
    if is_qwen and size and raw.get("max_window_layers") != 0:
        first = fields.integer("max_window_layers", limits.MAX_LAYERS)
    windows = tuple(size if layer >= first else 0 for layer in range(layers))
    kinds = raw.get("layer_types")
    if kinds is not None:
        sizes = {"full_attention": 0, "sliding_attention": size}
        known = isinstance(kinds, list) and all(isinstance(k, str) for k in kinds)
        other = [k for k in kinds if k not in sizes] if known else [kinds]
        if other or (size == 0 and "sliding_attention" in kinds):
            shown = ", ".join(map(repr, other or ["sliding_attention"]))
            raise BuildError(f"{path}: layer_types {shown} are not supported")
        if len(kinds) != layers:
            raise BuildError(f"{path}: {len(kinds)} layer_types for {layers} layers")
        named = tuple(sizes[k] for k in kinds)
        if not is_qwen and named != windows:
            raise BuildError(f"{path}: layer_types differ from sliding_window; remove layer_types")
        windows = named
    return windows if any(windows) else ()


def _read_eos(folder: Path, raw: Mapping[str, Any], vocab: int) -> tuple[int, ...]:
    """Ids that end a text: those of generation_config.json, else of config.json."""
    path = folder / GENERATION_CONFIG
    generation = read_json(path) if path.exists() else {}
    origin, value = path, generation.get("eos_token_id")
    if value is None:
        origin, value = folder / CONFIG, raw.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for each in ids:
        if not isinstance(each, int) or isinstance(each, bool) or not 0 <= each < vocab:
            raise BuildError(f"{origin}: eos_token_id {each!r} is not a token below {vocab}")
    unique = tuple(dict.fromkeys(ids))
    if len(unique) > limits.MAX_EOS:
        raise BuildError(f"{origin}: {len(unique)} eos_token_id; at most {limits.MAX_EOS} fit")
    return unique


def _read_mask_token(path: Path | str, raw: Mapping[str, Any], vocab: int) -> int | None:
    """The mask of a drafter that fills masks, under PARD's key."""
    token = raw.get("pard_token")
    if token is None:
        return None
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab:
        raise BuildError(f"{path}: pard_token {token!r} is not a token below {vocab}")
    return token


def _check_architecture(path: Path | str, raw: Mapping[str, Any]) -> str:
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise BuildError(
            f"{path}: model_type {kind!r} is not supported; specrt builds "
            f"{', '.join(ARCHITECTURES)}"
        )
    classes = raw.get("architectures") or [ARCHITECTURES[kind]]
    if classes != [ARCHITECTURES[kind]]:
        raise BuildError(
            f"{path}: architectures {classes!r} is not supported; specrt builds "
            f"{ARCHITECTURES[kind]}"
        )
    return kind


def read_config(folder: Path, max_context: int | None) -> ModelConfig:
    """Read and check config.json and generation_config.json. Raises BuildError."""
    path = folder / CONFIG
    raw = read_json(path)
    config = decoder_config(path, raw, max_context)
    return replace(config, eos=_read_eos(folder, raw, config.vocab))


def decoder_config(path: Path | str, raw: dict[str, Any], max_context: int | None) -> ModelConfig:
    """Check the config of a decoder, which stands at `path`, ends of text left out."""
    kind = _check_architecture(path, raw)
    _check_keys(path, raw, kind)
    raw = {**_DEFAULTS[kind], **raw}
    fields = Fields(str(path), raw)
    width = fields.integer("hidden_size", limits.MAX_DIM)
    heads = fields.integer("num_attention_heads", limits.MAX_DIM)
    kv_heads = fields.integer("num_key_value_heads", limits.MAX_DIM, heads)
    head_dim = fields.integer("head_dim", limits.MAX_HEAD_DIM, width // heads)
    if raw.get("head_dim") is None and width % heads:
        raise BuildError(f"{path}: hidden_size {width} is not a multiple of {heads} heads")
    if head_dim % 2 or not 2 <= head_dim <= limits.MAX_HEAD_DIM:
        raise BuildError(f"{path}: head_dim {head_dim} is not even and 2 to {limits.MAX_HEAD_DIM}")
    if heads % kv_heads:
        raise BuildError(f"{path}: {heads} query heads cannot share {kv_heads} key/value heads")
    if (heads + 2 * kv_heads) * head_dim > limits.MAX_DIM:
        raise BuildError(f"{path}: {heads} heads of {head_dim} are more than the engine holds")
    vocab = fields.integer("vocab_size", limits.MAX_VOCAB)
    layers = fields.integer("num_hidden_layers", limits.MAX_LAYERS)
    context = trained = fields.integer("max_position_embeddings", limits.MAX_CONTEXT)
    if max_context is not None:
        context = min(trained, max_context)
    if context < limits.MIN_CONTEXT:
        raise BuildError(f"{path}: a context of {context} is below {limits.MIN_CONTEXT} positions")
    return ModelConfig(
        architecture=kind,
        vocab=vocab,
        width=width,
        ffn=fields.integer("intermediate_size", limits.MAX_DIM // 2),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        context=context,
        tied=fields.flag("tie_word_embeddings", default=False),
        rope=_read_rope(path, raw, trained),
        eos=(),
        mask_token=_read_mask_token(path, raw, vocab),
        windows=_read_windows(path, raw, kind, layers),
    )

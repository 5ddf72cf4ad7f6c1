"""TensorRT-LLM checkpoints: fields against a table, and models rebuilt from all ranks.

TensorRT-LLM checks names and shapes only, so values are guarded here. tests/formats compares the
bits with NVIDIA ModelOpt's.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.llama import chain, forward, load
from reference.ops import bf16_round
from reference.safetensors_file import read_safetensors, write_safetensors
from reference.tiny_llama import LLAMA3_SCALING, Head, TinyLlama, write_tiny_llama
from reference.tiny_medusa import TinyMedusa, medusa_weights, write_tiny_medusa
from reference.unified_checkpoint import join, read_ranks, rebuild, vocabulary
from specrt.build import BuildError
from specrt.build.source import Source
from specrt.trtllm import checkpoint
from specrt.trtllm.checkpoint import read_model, write_checkpoint
from specrt.trtllm.unified import Dtype, Embedding

PROMPT = [3, 141, 59, 26, 5, 35, 89, 79]


def tiny(**fields: Any) -> TinyLlama:
    """A bf16 model whose heads divide over four ranks, and its vocabulary over none."""
    return TinyLlama(**({"heads": 8, "layers": 2, "dtype": "bf16"} | fields))


def source_of(folder: Path) -> Source:
    return Source("tiny", folder, None)


def convert(folder: Path, model: TinyLlama, ranks: int, **options: Any) -> tuple[Path, Path]:
    """The Hugging Face folder and the checkpoint."""
    source = write_tiny_llama(folder / "model", model)
    out = folder / "checkpoint"
    write_checkpoint(read_model(source_of(source), ranks, **options), out)
    return source, out


def refused(folder: Path, *words: str, ranks: int = 2, **options: Any) -> None:
    with pytest.raises(BuildError) as caught:
        model = read_model(source_of(folder), ranks, **options)
        write_checkpoint(model, folder.parent / "checkpoint")
    for word in words:
        assert word in str(caught.value)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


MODELS = {
    "llama": tiny(head=Head.UNTIED),
    "tied": tiny(),
    "four_kv_heads": tiny(kv_heads=4),
    "one_kv_head": tiny(kv_heads=1, head=Head.UNTIED),
    "llama3_rope": tiny(rope_theta=500.0, rope_scaling=LLAMA3_SCALING),
    "mistral": tiny(architecture="mistral", head=Head.UNTIED),
    "qwen2": tiny(architecture="qwen2", rope_theta=500.0),
    "qwen3": tiny(architecture="qwen3", head=Head.UNTIED),
}


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_in_the_ranks(name: str, ranks: int, tmp_path: Path) -> None:
    source, out = convert(tmp_path, MODELS[name], ranks)
    original, again = load(source, np.float32), rebuild(out)
    for tensor, values in original.weights.items():
        assert np.array_equal(again.weights[tensor], values), tensor
    assert again.config.eps == original.config.eps
    rows = chain(PROMPT)
    assert np.array_equal(forward(again, rows).logits, forward(original, rows).logits)


@pytest.mark.parametrize("dtype", Dtype)
def test_other_types_are_rounded_once(dtype: Dtype, tmp_path: Path) -> None:
    source, out = convert(tmp_path, tiny(dtype="f32"), 2, dtype=dtype)
    again = rebuild(out).weights
    for tensor, values in load(source, np.float32).weights.items():
        half = values.astype(np.float16) if dtype is Dtype.F16 else bf16_round(values)
        assert np.array_equal(again[tensor], half.astype(np.float32)), tensor


def test_the_embedding_can_be_sharded(tmp_path: Path) -> None:
    _, whole = convert(tmp_path / "a", tiny(), 4)
    _, sharded = convert(tmp_path / "b", tiny(), 4, embedding=Embedding.SHARDED)
    name = "model.embed_tokens.weight"
    assert np.array_equal(rebuild(whole).weights[name], rebuild(sharded).weights[name])
    _, ranks = read_ranks(sharded)
    assert [len(rank["transformer.vocab_embedding.weight"]) for rank in ranks] == [70] * 4


def test_small_chunks_write_the_same_file(tmp_path: Path, monkeypatch: Any) -> None:
    _, large = convert(tmp_path / "a", tiny(), 2)
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 1)
    _, small = convert(tmp_path / "b", tiny(), 2)
    for file in ("config.json", "rank0.safetensors", "rank1.safetensors"):
        assert (small / file).read_bytes() == (large / file).read_bytes()


@pytest.mark.parametrize("base", ["llama", "qwen2"])
def test_medusa_heads_are_in_the_ranks(base: str, tmp_path: Path) -> None:
    model = tiny(architecture=base, head=Head.UNTIED)
    medusa = TinyMedusa(model, heads=3, layers=2, told=2)
    folder = write_tiny_medusa(tmp_path / "heads", medusa)
    source, out = convert(tmp_path, model, 2, heads=Source("heads", folder, None))
    config, ranks = read_ranks(out)
    assert config["architecture"] == "MedusaForCausalLM"
    assert config["base_architecture"] == {"llama": "LlamaForCausalLM"}.get(
        base, "Qwen2ForCausalLM"
    )
    assert config["model_type"] == base
    assert (config["num_medusa_heads"], config["num_medusa_layers"]) == (3, 2)
    assert config["max_draft_len"] == 63
    assert np.array_equal(
        forward(rebuild(out), chain(PROMPT)).logits,
        forward(load(source, np.float32), chain(PROMPT)).logits,
    )
    stored = read_safetensors(folder / "medusa_lm_head.safetensors")
    assert stored.keys() == medusa_weights(medusa).keys()
    for head in range(3):
        for layer in range(2):
            for kind in ("weight", "bias"):
                theirs = f"medusa_heads.{head}.medusa_layers.{layer}.linear.{kind}"
                assert np.array_equal(join(ranks, theirs), stored[f"{head}.{layer}.linear.{kind}"])
        theirs = f"medusa_heads.{head}.lm_head.weight"
        assert np.array_equal(vocabulary(config, ranks, theirs), stored[f"{head}.2.weight"])


LLAMA_FIELDS = {
    "producer": {"name": "specrt"},
    "architecture": "LlamaForCausalLM",
    "dtype": "bfloat16",
    "logits_dtype": "float32",
    "vocab_size": 277,
    "hidden_size": 48,
    "intermediate_size": 76,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_size": 10,
    "hidden_act": "silu",
    "norm_epsilon": 1e-6,
    "position_embedding_type": "rope_gpt_neox",
    "max_position_embeddings": 256,
    "rotary_base": 10000.0,
    "rotary_scaling": None,
    "attn_bias": False,
    "mlp_bias": False,
    "use_parallel_embedding": False,
    "embedding_sharding_dim": 0,
    "tie_word_embeddings": True,
    "mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1},
    "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
}
OTHER_FIELDS = {
    "llama": {"tie_word_embeddings": False},
    "tied": {},
    "llama3_rope": {
        "rotary_base": 500.0,
        "rotary_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {"architecture": "MistralForCausalLM", "tie_word_embeddings": False},
    "qwen2": {
        "architecture": "Qwen2ForCausalLM",
        "rotary_base": 500.0,
        "attn_bias": True,
        "qwen_type": "qwen2",
        "seq_length": 256,
    },
    "qwen3": {
        "architecture": "Qwen3ForCausalLM",
        "tie_word_embeddings": False,
        "qwen_type": "qwen3",
        "seq_length": 256,
        "qk_layernorm": True,
    },
}


@pytest.mark.parametrize("name", OTHER_FIELDS)
def test_config_has_exactly_these_fields(name: str, tmp_path: Path) -> None:
    _, out = convert(tmp_path, MODELS[name], 2)
    assert json.loads((out / "config.json").read_text()) == LLAMA_FIELDS | OTHER_FIELDS[name]


def test_windows_are_refused_where_they_count(tmp_path: Path) -> None:
    model = tiny(architecture="mistral", window=64)
    folder = write_tiny_llama(tmp_path / "model", model)
    refused(folder, "sliding window of 64", "--max-context 64")
    read_model(source_of(folder), 2, max_context=64)


SHAPES = [
    ({"heads": 6}, 4, "6 attention heads do not divide over 4 ranks"),
    ({"heads": 12, "kv_heads": 3}, 2, "3 key/value heads neither divide over 2 ranks"),
    ({"ffn": 75}, 2, "75 intermediate_size"),
    ({}, 3, "tensor parallel 3 is not one of 1, 2, 4"),
]


@pytest.mark.parametrize(("fields", "ranks", "words"), SHAPES)
def test_ranks_that_do_not_fit(
    fields: dict[str, int], ranks: int, words: str, tmp_path: Path
) -> None:
    folder = write_tiny_llama(tmp_path / "model", tiny(**fields))
    refused(folder, words, ranks=ranks)


CONFIGS = [
    ({"attention_bias": True}, "attention_bias"),
    ({"mlp_bias": True}, "mlp_bias"),
    ({"model_type": "gemma2"}, "gemma2"),
    ({"pard_token": 5}, "fills masks"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
    ({"num_local_experts": 8}, "num_local_experts"),
]


@pytest.mark.parametrize(("changes", "words"), CONFIGS, ids=[words for _, words in CONFIGS])
def test_what_is_not_mapped_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "model", tiny())
    edit_config(folder, **changes)
    refused(folder, words)


def test_tensors_without_a_place(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "model", tiny(dtype="f32"))
    weights = read_safetensors(folder / "model.safetensors")
    extra = weights | {"model.layers.0.self_attn.o_proj.bias": np.zeros(48, np.float32)}
    write_safetensors(folder / "model.safetensors", extra, "F32")
    refused(folder, "o_proj.bias")
    weights.pop("model.norm.weight")
    write_safetensors(folder / "model.safetensors", weights, "F32")
    refused(folder, "model.norm.weight' is missing")


def test_qwen_has_no_sharded_embedding(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "model", tiny(architecture="qwen3"))
    refused(folder, "qwen3", "sharded", embedding=Embedding.SHARDED)


@pytest.mark.parametrize(("value", "advice"), [(np.nan, "damaged"), (1e5, "--dtype bf16")])
def test_values_that_do_not_fit(value: float, advice: str, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "model", tiny(dtype="f32"))
    weights = read_safetensors(folder / "model.safetensors")
    weights["model.norm.weight"][7] = value
    write_safetensors(folder / "model.safetensors", weights, "F32")
    refused(folder, "model.norm.weight", "float16", advice, dtype=Dtype.F16)


def test_medusa_folders_that_are_refused(tmp_path: Path) -> None:
    model = tiny()
    folder = write_tiny_llama(tmp_path / "model", model)

    def heads(name: str, **fields: int) -> Source:
        made = write_tiny_medusa(tmp_path / name, TinyMedusa(model, **fields))
        return Source(name, made, None)

    refused(folder, "[0, 1], but config.json says 3", heads=heads("few", told=3))
    bare = heads("bare")
    (bare.folder / "medusa_lm_head.safetensors").unlink()
    refused(folder, "medusa_lm_head.pt", heads=bare)
    other = write_tiny_medusa(tmp_path / "other", TinyMedusa(tiny(hidden=40)))
    refused(folder, "'0.0.linear.weight' has shape [40, 40]", heads=Source("other", other, None))

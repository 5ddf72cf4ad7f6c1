"""What the builder does not honour it refuses by name, and nothing is left behind."""

import json
import random

import numpy as np
import pytest
from reference.safetensors_file import read_safetensors, write_safetensors
from reference.tiny_llama import LLAMA3_SCALING, Head, TinyLlama, write_tiny_llama
from specrt.build import BuildError, build
from specrt.build.hf import read_config


@pytest.fixture
def model(tmp_path):
    return write_tiny_llama(tmp_path / "model", TinyLlama(layers=1))


def edit_json(path, **changes):
    content = json.loads(path.read_text()) if path.exists() else {}
    content.update(changes)
    path.write_text(json.dumps(content))


def refused(model, *words, **options):
    out = model.parent / "bundle"
    with pytest.raises(BuildError) as caught:
        build(model, out=out, progress=False, tune=False, **options)
    for word in words:
        assert word in str(caught.value)
    assert not list(model.parent.glob("*bundle*"))
    assert not list(model.parent.glob(".bundle*"))


CONFIGS = [
    ({"model_type": "gemma2"}, "model_type 'gemma2'"),
    ({"model_type": "qwen2"}, "architectures ['LlamaForCausalLM']"),
    ({"model_type": None}, "model_type None"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
    ({"attention_bias": True}, "attention_bias"),
    ({"mlp_bias": True}, "mlp_bias"),
    ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ({"sliding_window": 4096}, "sliding_window = 4096"),
    ({"layer_types": ["sliding_attention"]}, "sliding_attention"),
    ({"layer_types": [["full_attention"]]}, "layer_types"),
    ({"layer_types": ["full_attention"] * 2}, "2 layer_types for 1 layers"),
    ({"use_sliding_window": True}, "use_sliding_window = True"),
    ({"max_window_layers": 1}, "max_window_layers"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ({"pretraining_tp": 2}, "pretraining_tp = 2"),
    ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
    ({"logit_scale": 0.5, "residual_multiplier": 2}, "'logit_scale', 'residual_multiplier'"),
    ({"head_dim": 7}, "head_dim 7"),
    ({"head_dim": 1024}, "head_dim"),
    ({"num_key_value_heads": 4}, "6 query heads cannot share 4"),
    ({"hidden_size": 0}, "hidden_size = 0"),
    ({"hidden_size": "48"}, "hidden_size = '48'"),
    ({"hidden_size": 50, "head_dim": None}, "not a multiple of 6 heads"),
    ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
    ({"vocab_size": True}, "vocab_size = True"),
    ({"rms_norm_eps": -1}, "rms_norm_eps"),
    ({"rms_norm_eps": 1e300}, "rms_norm_eps"),
    ({"max_position_embeddings": 1}, "context of 1"),
    ({"max_position_embeddings": None}, "max_position_embeddings is missing"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn'"),
    ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor is missing"),
    ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "factor"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ({"rope_parameters": [1]}, "rope_parameters must be an object"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None}, "'linear'"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_parameters and rope_scaling"),
    ({"rope_theta": 5.0}, "rope_theta differs"),
    ({"rope_parameters": {"rope_type": "llama3", **LLAMA3_SCALING, "beta": 1}}, "beta"),
]


@pytest.mark.parametrize(("changes", "words"), CONFIGS, ids=[words for _, words in CONFIGS])
def test_config_is_refused_by_name(model, changes, words):
    edit_json(model / "config.json", **changes)
    refused(model, "config.json", words)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
RELATIVES = [
    ("mistral", {"sliding_window": 0}, "sliding_window = 0"),
    ("mistral", {"sliding_window": True}, "sliding_window = True"),
    ("mistral", {"sliding_window": 1 << 31}, "sliding_window = 2147483648"),
    ("mistral", {"use_sliding_window": True}, "use_sliding_window"),
    ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types differ"),
    ("mistral", {"attention_bias": True}, "attention_bias"),
    ("mistral", {"rope_parameters": YARN}, "rope type 'yarn'"),
    ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window"),
    ("qwen2", {"sliding_window": -1}, "sliding_window = -1"),
    ("qwen2", {"max_window_layers": -1}, "max_window_layers = -1"),
    ("qwen2", {"layer_types": ["full_attention"] * 2}, "2 layer_types for 3 layers"),
    ("qwen2", {"layer_types": ["chunked_attention"] * 3}, "chunked_attention"),
    ("qwen2", {"use_sliding_window": False, "layer_types": ["sliding_attention"] * 3}, "sliding"),
    ("qwen2", {"use_mrope": True}, "use_mrope"),
    ("qwen2", {"rope_parameters": YARN}, "rope type 'yarn'"),
    ("qwen2", {"dual_chunk_attention_config": {"a": 1}}, "dual_chunk_attention_config"),
    ("qwen3", {"attention_bias": True}, "attention_bias"),
    ("qwen3", {"rope_parameters": YARN}, "rope type 'yarn'"),
    ("qwen3", {"num_experts": 8}, "num_experts"),
]


@pytest.mark.parametrize(("kind", "changes", "words"), RELATIVES)
def test_config_of_a_relative_is_refused_by_name(tmp_path, kind, changes, words):
    model = write_tiny_llama(tmp_path / "model", TinyLlama(architecture=kind, window=20))
    edit_json(model / "config.json", **changes)
    refused(model, "config.json", words)


def windows_of(model, **changes):
    edit_json(model / "config.json", **changes)
    return read_config(model, None).windows


def test_windows_of_layers(tmp_path):
    mistral = write_tiny_llama(tmp_path / "m", TinyLlama(architecture="mistral", window=20))
    assert windows_of(mistral) == (20, 20, 20)
    assert windows_of(mistral, layer_types=["sliding_attention"] * 3) == (20, 20, 20)
    assert windows_of(mistral, layer_types=None, sliding_window=None) == ()
    qwen = TinyLlama(architecture="qwen2", window=20, full_layers=1)
    folder = write_tiny_llama(tmp_path / "q", qwen)
    assert windows_of(folder) == (0, 20, 20)
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    assert windows_of(folder, layer_types=kinds) == (20, 0, 0)
    assert windows_of(folder, layer_types=None, use_sliding_window=False) == ()
    assert windows_of(folder, use_sliding_window=True, max_window_layers=0) == (20, 20, 20)
    assert windows_of(folder, max_window_layers=28) == ()


def test_absent_keys_mean_what_transformers_takes(tmp_path):
    """Null is a value, an absent key is not."""
    for kind, heads in (("mistral", 8), ("qwen2", 32), ("qwen3", 32)):
        folder = write_tiny_llama(tmp_path / kind, TinyLlama(architecture=kind, heads=32))
        path = folder / "config.json"
        raw = json.loads(path.read_text())
        for key in ("num_key_value_heads", "sliding_window", "head_dim"):
            del raw[key]
        path.write_text(json.dumps({**raw, "hidden_size": 64}))
        config = read_config(folder, None)
        assert config.kv_heads == heads
        assert config.head_dim == (128 if kind == "qwen3" else 2)
        assert config.windows == ((4096,) * 3 if kind == "mistral" else ())


def test_eos_of_the_generation_config_is_checked(model):
    edit_json(model / "generation_config.json", eos_token_id=[3, 277])
    refused(model, "generation_config.json", "eos_token_id 277")
    edit_json(model / "generation_config.json", eos_token_id=list(range(17)))
    refused(model, "17 eos_token_id")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100000, '{"a":"' + "x" * 2**20]
)
def test_bad_json_is_refused(model, text):
    (model / "config.json").write_text(text)
    refused(model, "config.json")


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_config_with_strange_values_never_fails_otherwise(tmp_path, kind):
    tiny = TinyLlama(layers=1, architecture=kind, window=None if kind == "llama" else 9)
    model = write_tiny_llama(tmp_path / "model", tiny)
    good = json.loads((model / "config.json").read_text())
    strange = [None, "x", -1, 0, 1.5, 10**30, 1e308, [], [1], {}, {"a": 1}, True, False]
    for key in {**good, "layer_types": None}:
        for value in strange:
            (model / "config.json").write_text(json.dumps({**good, key: value}))
            try:
                read_config(model, None)
            except BuildError as error:
                assert str(model) in str(error)


def rewrite(model, change):
    path = model / "model.safetensors"
    tensors = read_safetensors(path)
    change(tensors)
    write_safetensors(path, tensors, "F32")


def test_missing_tensor_is_named(model):
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(model, lambda tensors: tensors.pop(name))
    refused(model, name, "missing")


def test_missing_head_is_named(tmp_path):
    model = write_tiny_llama(tmp_path / "model", TinyLlama(layers=1, head=Head.UNTIED))
    rewrite(model, lambda tensors: tensors.pop("lm_head.weight"))
    refused(model, "lm_head.weight", "missing")


def test_extra_tensor_is_named(model):
    name = "model.layers.0.self_attn.q_norm.weight"
    rewrite(model, lambda tensors: tensors.update({name: np.ones(10, np.float32)}))
    refused(model, name)


def test_bias_is_named(model):
    name = "model.layers.0.self_attn.q_proj.bias"
    rewrite(model, lambda tensors: tensors.update({name: np.ones(60, np.float32)}))
    refused(model, name)


def test_wrong_shape_is_named(model):
    edit_json(model / "config.json", intermediate_size=80)
    refused(model, "model.layers.0.mlp.", "[76, 48]", "[80, 48]")


def test_not_finite_is_named(model):
    name = "model.layers.0.mlp.down_proj.weight"

    def poison(tensors):
        tensors[name][3, 4] = np.nan

    rewrite(model, poison)
    refused(model, name, "NaN")


def test_too_large_for_bf16_is_named(model):
    def enlarge(tensors):
        tensors["model.layers.0.mlp.down_proj.weight"][3, 4] = 3.4e38

    rewrite(model, enlarge)
    refused(model, "down_proj", "--dtype f32", dtype="bf16")


def test_head_of_a_tied_model(model):
    head = {}

    def add(tensors):
        head["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors.update(head)

    plain = build(model, out=model.parent / "plain", progress=False, tune=False) / "target.engine"
    rewrite(model, add)
    equal = build(model, out=model.parent / "equal", progress=False, tune=False) / "target.engine"
    assert equal.stat().st_size == plain.stat().st_size
    head["lm_head.weight"][0, 0] += 1
    rewrite(model, lambda tensors: tensors.update(head))
    refused(model, "tie_word_embeddings", "lm_head.weight")


def test_recomputed_frequencies_are_no_extra_tensor(model):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(model, lambda tensors: tensors.update({name: np.ones(5, np.float32)}))
    assert build(model, out=model.parent / "bundle", progress=False, tune=False).is_dir()


def test_unknown_options_are_named(model):
    refused(model, "backend 'gpu'", backend="gpu")
    refused(model, "dtype 'int4'", dtype="int4")
    refused(model, "max_context 0", max_context=0)


def test_places_without_a_model(model, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(model.parent / "cache"))
    for place, words in [
        (model / "config.json", "is a file"),
        (model.parent / "none", "there is no folder"),
        ("./none", "there is no folder './none'"),
        ("specrt-nobody/none", "Hugging Face hub failed"),
    ]:
        with pytest.raises(BuildError, match=words):
            build(place, out=model.parent / "bundle", progress=False, tune=False)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refused(model, "model.safetensors", "save_pretrained")


def test_tokenizer_is_needed_and_checked(model):
    edit_json(model / "tokenizer.json", model={"type": "nonsense"})
    refused(model, "tokenizer.json", "not a tokenizer")
    (model / "tokenizer.json").unlink()
    refused(model, "no tokenizer.json")


def test_tokenizer_of_another_model_is_refused(tmp_path):
    model = write_tiny_llama(tmp_path / "model", TinyLlama(layers=1))
    small = {"vocab_size": 200}

    def shorten(tensors):
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:200]

    rewrite(model, shorten)
    edit_json(model / "config.json", **small)
    refused(model, "tokenizer.json", "the model has 200 tokens")


def test_draft_with_another_vocabulary_is_refused(model):
    draft = write_tiny_llama(model.parent / "draft", TinyLlama(layers=1, vocab=280))
    refused(model, "280 tokens", "277", draft=draft)


def test_draft_with_another_tokenizer_is_refused(model):
    draft = write_tiny_llama(model.parent / "draft", TinyLlama(layers=1, seed=2))
    path = draft / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(content))
    refused(model, "another tokenizer", "'a'", draft=draft)
    path.unlink()
    assert build(
        model, draft=draft, out=model.parent / "bundle", progress=False, tune=False
    ).is_dir()


def test_random_damage_never_fails_otherwise(model):
    path = model / "model.safetensors"
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    random.seed(1)
    for i in range(150):
        data = bytearray(good)
        for _ in range(random.randint(1, 3)):
            data[random.randrange(header)] = random.randrange(256)
        path.write_bytes(data[: random.randrange(len(data))] if i % 5 == 0 else data)
        try:
            build(model, out=model.parent / "bundle", progress=False, tune=False)
        except BuildError as error:
            assert str(model) in str(error)

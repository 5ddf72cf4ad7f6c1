"""The folders: read back by the safetensors and tokenizers packages, repeatable, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from .hf_folder import read_config, read_tensors
from .ops import bf16_round, inverse_frequencies, llama3_frequencies
from .safetensors_file import read_safetensors, write_safetensors
from .tiny_llama import LLAMA3_SCALING, ConfigForm, TinyLlama, weights, write_tiny_llama
from .tiny_tokenizer import SPECIALS, VOCAB


def test_safetensors_package_reads_the_file(tmp_path: Path) -> None:
    """Names, shapes and float32 values as the reference wrote them."""
    write_tiny_llama(tmp_path, TinyLlama())
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = dict(weights(TinyLlama()))
    assert stored.keys() == expected.keys()
    assert all(np.array_equal(stored[name], expected[name]) for name in expected)


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_weights_read_back(tmp_path: Path, shards: int, dtype: str) -> None:
    """bf16 and shards change storage only."""
    model = TinyLlama(dtype=dtype, shards=shards)
    tensors = read_tensors(write_tiny_llama(tmp_path, model))
    expected = dict(weights(model))
    assert tensors.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(tensors[name], bf16_round(values) if dtype == "bf16" else values)
    assert len(list(tmp_path.glob("*.safetensors"))) == shards


def test_float16_is_read(tmp_path: Path) -> None:
    """F16 tensors are widened; other types are refused by name."""
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"x": np.zeros(2, dtype=np.float32)}, "F32")
    half = np.array([1.5, -2.0, 0.25, 3.0], dtype="<f2")
    content = path.read_bytes()[:-8].replace(b'"F32","shape":[2]', b'"F16","shape":[4]')
    path.write_bytes(content + half.tobytes())
    assert np.array_equal(read_safetensors(path)["x"], half.astype(np.float32))
    path.write_bytes(content.replace(b"F16", b"I16") + half.tobytes())
    with pytest.raises(ValueError, match="I16"):
        read_safetensors(path)


def test_folders_are_repeatable(tmp_path: Path) -> None:
    """The same parameters give the same bytes; another seed gives others."""
    first, second = (write_tiny_llama(tmp_path / name, TinyLlama()) for name in "ab")
    other = write_tiny_llama(tmp_path / "c", TinyLlama(seed=2))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
    file = "model.safetensors"
    assert (first / file).read_bytes() != (other / file).read_bytes()


@pytest.mark.parametrize("form", ConfigForm)
def test_both_forms_of_config_mean_the_same(tmp_path: Path, form: ConfigForm) -> None:
    """rope_parameters, or rope_theta with rope_scaling; plain and scaled."""
    inverse = inverse_frequencies(10, 5000.0)
    scaled = llama3_frequencies(inverse, factor=8.0, low=1.0, high=4.0, context=32)
    for scaling, expected in ((None, inverse), (LLAMA3_SCALING, scaled)):
        model = TinyLlama(rope_theta=5000.0, rope_scaling=scaling, config_form=form)
        config = read_config(write_tiny_llama(tmp_path, model))
        np.testing.assert_allclose(config.inverse_frequencies, expected)
        assert (config.width, config.heads, config.kv_heads, config.head_size) == (48, 6, 2, 10)


def test_defaults_of_config(tmp_path: Path) -> None:
    """Without head_dim the width is shared out, without key/value heads every head has its own."""
    path = write_tiny_llama(tmp_path, TinyLlama()) / "config.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    for name in ("head_dim", "num_key_value_heads", "rope_parameters"):
        raw.pop(name)
    path.write_text(json.dumps(raw), encoding="utf-8")
    config = read_config(tmp_path)
    assert (config.head_size, config.kv_heads) == (8, 6)
    np.testing.assert_allclose(config.inverse_frequencies, inverse_frequencies(8, 10000.0))


def test_tokenizer_round_trip(tmp_path: Path) -> None:
    """Any UTF-8 text is one token per byte; specials are single tokens."""
    write_tiny_llama(tmp_path, TinyLlama())
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == VOCAB
    text = "Größe \t\n 日本 \x00\x7f"
    ids = tokenizer.encode(text).ids
    assert ids == [len(SPECIALS) + byte for byte in text.encode()]
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("<|user|>a<|end|>").ids == [1, len(SPECIALS) + ord("a"), 3]


def test_tokenizer_config_has_a_chat_template(tmp_path: Path) -> None:
    """With the special tokens that config.json names."""
    write_tiny_llama(tmp_path, TinyLlama())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "add_generation_prompt" in settings["chat_template"]
    assert settings["eos_token"] == "<|end|>"


@pytest.mark.parametrize(
    ("model", "message"),
    [(TinyLlama(dtype="f16"), "f16"), (TinyLlama(vocab=262), "262")],
)
def test_refuses_what_it_cannot_write(tmp_path: Path, model: TinyLlama, message: str) -> None:
    """Bad parameters are named."""
    with pytest.raises(ValueError, match=message):
        write_tiny_llama(tmp_path, model)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "mamba"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("rope_parameters", {"rope_type": "yarn"}),
    ],
)
def test_refuses_what_it_does_not_compute(tmp_path: Path, key: str, value: object) -> None:
    """Unknown parts of a config are an error, never ignored."""
    path = write_tiny_llama(tmp_path, TinyLlama()) / "config.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(raw | {key: value}), encoding="utf-8")
    with pytest.raises(ValueError, match="not supported"):
        read_config(tmp_path)

"""Weights pass through in small pieces: shards and chunk sizes do not change a byte."""

import json
import tracemalloc

import numpy as np
import pytest
from reference.safetensors_file import read_safetensors, write_safetensors
from reference.tiny_llama import Head, TinyLlama, write_tiny_llama
from specrt.build import BuildError, build, convert
from specrt.build.engine_file import read_header


def weights(bundle):
    path = bundle / "target.engine"
    return path.read_bytes()[read_header(path).weights_begin :]


def built(model, name="bundle", **options):
    return build(model, out=model.parent / name, progress=False, tune=False, **options)


def test_sharded_is_unsharded(tmp_path):
    whole = write_tiny_llama(tmp_path / "whole", TinyLlama(head=Head.UNTIED))
    shards = write_tiny_llama(tmp_path / "shards", TinyLlama(head=Head.UNTIED, shards=4))
    a, b = built(whole, "a"), built(shards, "b")
    assert weights(a) == weights(b)
    plans = [read_header(bundle / "target.engine").plan for bundle in (a, b)]
    assert plans[0] == plans[1]


def test_same_input_same_file(tmp_path):
    model = write_tiny_llama(tmp_path / "model", TinyLlama(layers=1))
    a, b = built(model, "a"), built(model, "b")
    assert (a / "target.engine").read_bytes() == (b / "target.engine").read_bytes()


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_chunk_size_does_not_matter(tmp_path, dtype, monkeypatch):
    model = write_tiny_llama(tmp_path / "model", TinyLlama(layers=1, head=Head.UNTIED))
    whole = weights(built(model, "whole", dtype=dtype))
    monkeypatch.setattr(convert, "CHUNK_BYTES", 1)
    assert weights(built(model, "pieces", dtype=dtype)) == whole


def test_dtype_follows_the_checkpoint(tmp_path):
    for dtype in ("f32", "bf16"):
        model = write_tiny_llama(tmp_path / dtype, TinyLlama(layers=1, dtype=dtype))
        path = built(model, f"bundle-{dtype}") / "target.engine"
        assert read_header(path).plan.dtype.value == dtype


def index_of(model):
    return model / "model.safetensors.index.json"


INDEXES = {
    "escape": ({"model.norm.weight": "../x.safetensors"}, "not a file of this folder"),
    "null_byte": ({"model.norm.weight": "a\0b"}, "not a file of this folder"),
    "number": ({"model.norm.weight": 5}, "not a file of this folder"),
    "wrong_shard": ({}, "does not say"),
    "promise": ({"extra": "model-00001-of-00002.safetensors"}, "lacks tensor 'extra'"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_index_that_lies_is_refused(tmp_path, name):
    changes, words = INDEXES[name]
    model = write_tiny_llama(tmp_path / "model", TinyLlama(layers=1, shards=2))
    index = json.loads(index_of(model).read_text())
    if name == "wrong_shard":
        places = sorted(set(index["weight_map"].values()))
        other = dict(zip(places, reversed(places), strict=True))
        changes = {k: other[v] for k, v in list(index["weight_map"].items())[:1]}
    index["weight_map"].update(changes)
    index_of(model).write_text(json.dumps(index))
    with pytest.raises(BuildError, match=words):
        built(model)


def test_missing_shard_is_named(tmp_path):
    model = write_tiny_llama(tmp_path / "model", TinyLlama(layers=1, shards=2))
    (model / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BuildError, match=r"cannot read .*model-00002-of-00002\.safetensors"):
        built(model)


def test_index_without_map_is_refused(tmp_path):
    model = write_tiny_llama(tmp_path / "model", TinyLlama(layers=1, shards=2))
    index_of(model).write_text('{"weight_map": []}')
    with pytest.raises(BuildError, match="no weight_map"):
        built(model)


def enlarged(folder, times):
    """Write a model whose every dimension is `times` that of the tiny one."""
    model = write_tiny_llama(folder, TinyLlama(head=Head.UNTIED))
    config = json.loads((model / "config.json").read_text())
    for key in ("hidden_size", "head_dim", "intermediate_size", "vocab_size"):
        config[key] *= times
    (model / "config.json").write_text(json.dumps(config))
    pattern = np.random.default_rng(1).standard_normal(9973).astype(np.float32)
    path = model / "model.safetensors"
    shapes = {name: values.shape for name, values in read_safetensors(path).items()}
    tensors = {n: np.resize(pattern, [d * times for d in s]) for n, s in shapes.items()}
    write_safetensors(path, tensors, "F32")
    return model


def test_memory_stays_below_one_tensor(tmp_path):
    model = enlarged(tmp_path / "model", 18)
    assert (model / "model.safetensors").stat().st_size > 100e6
    built(write_tiny_llama(tmp_path / "small", TinyLlama(layers=1)), "warm")  # imports
    tracemalloc.start()
    bundle = built(model, dtype="bf16")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (bundle / "target.engine").stat().st_size > 50e6
    assert peak < 30e6


def test_f16_checkpoints_become_bf16(tmp_path):
    model = write_tiny_llama(tmp_path / "model", TinyLlama(layers=1))
    path = model / "model.safetensors"
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__")
    body = np.frombuffer(data[begin:], np.float32).astype(np.float16).tobytes()
    for tensor in header.values():
        tensor["dtype"] = "F16"
        tensor["data_offsets"] = [offset // 2 for offset in tensor["data_offsets"]]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    engine = built(model) / "target.engine"
    assert read_header(engine).plan.dtype.value == "bf16"

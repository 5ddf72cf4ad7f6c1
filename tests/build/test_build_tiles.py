"""Bundles for CUDA: what tiles pair, in whatever chunks; what is refused; who may run it."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reference.safetensors_file import read_safetensors
from reference.tiny_llama import Head, TinyLlama, write_tiny_llama
from specrt import LLM, Error
from specrt.build import BuildError, build, convert
from specrt.build.engine_file import read_header
from specrt.build.graph import DType, Layout
from specrt.build.pack import bf16_from_float, unpack_tiles
from specrt.cli.main import main

TINY = TinyLlama(layers=1, head=Head.UNTIED, head_dim=64, ffn=72)


def built(model, name="bundle", **options):
    options = {"backend": "cuda", "dtype": "bf16", **options}
    out = build(model, out=model.parent / name, progress=False, tune=False, **options)
    return out / "target.engine"


def tensors(engine):
    """Name -> record and what is stored."""
    header, data = read_header(engine), engine.read_bytes()
    places = zip(header.plan.tensors, header.tensor_offsets, strict=True)
    stored = [(record, data[at : at + record.size]) for record, at in places]
    return dict(zip(header.meta["tensors"], stored, strict=True))


@pytest.mark.parametrize("head_dim", [64, 96, 128])
@pytest.mark.parametrize("chunk", [1, 40_000, convert.CHUNK_BYTES])
def test_pairs(tmp_path, head_dim, chunk, monkeypatch):
    """Each matrix unpacks to its parts, one after another."""
    monkeypatch.setattr(convert, "CHUNK_BYTES", chunk)
    model = write_tiny_llama(tmp_path / "model", replace(TINY, head_dim=head_dim))
    source = read_safetensors(model / "model.safetensors")
    at, mlp = "model.layers.0.self_attn.", "model.layers.0.mlp."
    expected = {
        "layers.0.qkv": (head_dim // 2, [f"{at}{name}_proj.weight" for name in "qkv"]),
        "layers.0.o": (8, [f"{at}o_proj.weight"]),
        "layers.0.ffn_gate_up": (72, [f"{mlp}{name}_proj.weight" for name in ("gate", "up")]),
        "layers.0.down": (8, [f"{mlp}down_proj.weight"]),
        "head": (8, ["lm_head.weight"]),
    }
    found = tensors(built(model))
    matrices = {name for name, (record, _) in found.items() if record.layout is Layout.TILES16X32}
    assert matrices == set(expected)
    for name, (stride, parts) in expected.items():
        record, stored = found[name]
        assert (record.pair_stride, record.dtype) == (stride, DType.BF16)
        matrix = unpack_tiles(np.frombuffer(stored, "<u2"), record.rows, record.cols, stride)
        values = np.concatenate([source[part] for part in parts])
        np.testing.assert_array_equal(matrix, bf16_from_float(values))
    assert found["embed"][0].layout is Layout.ROW_MAJOR


def test_tied_table_is_packed_once(tmp_path):
    model = write_tiny_llama(tmp_path / "model", replace(TINY, head=Head.TIED))
    engine = built(model)
    plan = read_header(engine).plan
    assert plan.ops[0].kind == "embed"
    assert plan.ops[0].tensor == plan.ops[-1].tensor
    assert plan.tensors[plan.ops[0].tensor].pair_stride == 8


def test_bias_and_head_norms_stay_as_they_are(tmp_path):
    for kind in ("qwen2", "qwen3"):
        model = write_tiny_llama(tmp_path / kind, replace(TINY, architecture=kind))
        cuda = tensors(built(model, f"{kind}-cuda"))
        cpu = tensors(built(model, f"{kind}-cpu", backend="cpu"))
        assert set(cuda) == set(cpu)
        vectors = [name for name, (record, _) in cpu.items() if record.rows == 1]
        assert any("bias" in name or "q_norm" in name for name in vectors)
        for name in vectors:
            assert cuda[name] == cpu[name]


def edited(tmp_path, **changes):
    """A model whose config alone is changed: it is refused before its tensors are read."""
    model = write_tiny_llama(tmp_path / "model", TINY)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **changes}))
    return model


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"head_dim": 80}, {}, "head_dim 80: CUDA kernels exist for 64, 96, 128"),
        ({"intermediate_size": 76}, {}, "feed-forward width of 76"),
        ({}, {"dtype": "f32"}, "not f32; build with --dtype bf16"),
        ({}, {"dtype": None}, "not f32; build with --dtype bf16"),
    ],
)
def test_what_cuda_has_no_kernels_for_is_refused(tmp_path, changes, options, words):
    model = edited(tmp_path, **changes)
    with pytest.raises(BuildError, match=words):
        built(model, **options)
    assert not (tmp_path / "bundle").exists()


def test_inspect_knows_a_cuda_bundle(tmp_path, capsys):
    bundle = built(write_tiny_llama(tmp_path / "model", TINY)).parent
    assert main(["inspect", str(bundle), "--verify"]) == 0
    text = capsys.readouterr().out
    assert "bf16, cuda" in text
    assert "then SwiGLU" in text
    assert main(["inspect", str(bundle), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["engines"]["target"]["backend"] == "cuda"
    assert "--backend cuda" in facts["command"]
    assert shlex.split(facts["command"])[:2] == ["specrt", "build"]


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there may be a GPU that runs it")
def test_without_a_gpu_a_cuda_bundle_says_what_to_do(tmp_path):
    bundle = built(write_tiny_llama(tmp_path / "model", TINY)).parent
    with pytest.raises(Error, match=r"CUDA.*--backend cpu|driver.*--backend cpu"):
        LLM(bundle)


def test_tuning_a_cuda_bundle_on_a_cpu_says_what_to_do(tmp_path):
    model = write_tiny_llama(tmp_path / "model", TINY)
    with pytest.raises(BuildError, match="--no-tune"):
        build(model, out=tmp_path / "out", backend="cuda", dtype="bf16", progress=False)
    assert not (tmp_path / "out").exists()

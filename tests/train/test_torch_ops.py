"""The fused attention of streams against a dense mask, and where it cannot be had."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import write_rows, write_tiny
from specrt.torch_ops import library, stream_attention
from specrt.torch_ops.stream_attention import check_device
from specrt.train import stream_attention as plain
from specrt.train.parallel import train_parallel
from specrt.train.streaming import StreamOptions
from stream_cases import ROWS, SCALE, dense_attention, gradients, make_inputs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fused_attention_is_that_of_a_dense_mask(dtype: torch.dtype) -> None:
    inputs = make_inputs(dtype)
    ours = stream_attention(*inputs, ROWS, SCALE)
    dense = dense_attention(*inputs, ROWS)
    torch.testing.assert_close(ours, dense)
    for mine, wanted in zip(gradients(ours, inputs), gradients(dense, inputs), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_gradient_is_that_of_differences() -> None:
    torch.autograd.gradcheck(lambda *parts: stream_attention(*parts, ROWS, SCALE), make_inputs())


def test_parts_of_several_types_are_computed_in_float32() -> None:
    """As they come under autocast: rotary embedding widens queries and keys alone."""
    q, main_k, main_v, stream_k, stream_v = make_inputs(torch.float32)
    mixed = (q, main_k, main_v.bfloat16(), stream_k, stream_v.bfloat16())
    ours = stream_attention(*mixed, ROWS, SCALE)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, stream_attention(*map(torch.Tensor.float, mixed), ROWS, SCALE))


def test_bad_tensors_are_named() -> None:
    q, main_k, *rest = make_inputs()
    with pytest.raises(RuntimeError, match=r"main_k has shape \[2, 2, 7, 4\]"):
        stream_attention(q, main_k[..., :4], *rest, ROWS, SCALE)
    with pytest.raises(IndexError, match="row 7 is none of 7 main positions"):
        stream_attention(q, main_k, *rest, ROWS + 1, SCALE)
    with pytest.raises(RuntimeError, match="rows must be int64"):
        stream_attention(q, main_k, *rest, ROWS.int(), SCALE)


def test_training_is_the_same(tmp_path: Path) -> None:
    options = StreamOptions(
        target=write_tiny(tmp_path / "target", 1, 32, 2),
        data=(write_rows(tmp_path / "rows.jsonl"),),
        out=tmp_path / "torch",
        streams=2,
        stream_layers=2,
        lora_rank=2,
        steps=3,
        batch_tokens=128,
        precision="f32",
        validation_prompts=2,
        validation_tokens=8,
    )
    wanted = train_parallel(options).best.loss
    fused = train_parallel(replace(options, out=tmp_path / "fused", attention="fused")).best.loss
    assert fused == pytest.approx(wanted, rel=1e-4)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(library, "load_library", library.load_library.__wrapped__)


def test_missing_compiler_is_named(no_compiler: None) -> None:
    with pytest.raises(RuntimeError, match="needs a C\\+\\+ compiler, and 'no-such-compiler' is"):
        library.load_library()


def test_no_kernel_for_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="was compiled for cpu, not for meta"):
        check_device("meta")
    with pytest.raises(ValueError, match=r"no fused attention: .* not for meta"):
        plain.choose_attention("fused", torch.device("meta"))
    assert plain.choose_attention("auto", torch.device("meta")) is plain.stream_attention
    assert plain.choose_attention("auto", torch.device("cpu")) is stream_attention


def test_missing_ninja_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "find_spec", lambda _name: None)
    with pytest.raises(ValueError, match="ninja is not installed here: pip install 'specrt"):
        plain.choose_attention("fused", torch.device("cpu"))


def test_import_compiles_nothing() -> None:
    code = (
        "import specrt.torch_ops, torch; assert not hasattr(torch.ops.specrt, 'stream_attention')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

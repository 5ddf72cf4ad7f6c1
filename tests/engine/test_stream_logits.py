"""A step with streams gives the logits of the reference, for the row and for every stream."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from backends import by_backend
from bundles import bundle_of, tiny_model
from reference.streaming import stream_logits
from reference.tiny_llama import LLAMA3_SCALING, Head, write_tiny_llama
from reference.tiny_streaming import TinyStreaming, tensors, write_tiny_streaming
from safetensors.torch import load_file
from specrt import LLM
from specrt._core import EngineRole

PLAIN = TinyStreaming(tiny_model(layers=4, context=160))
VARIANTS = {
    "plain": PLAIN,
    "one stream": replace(PLAIN, streams=1),
    "many streams": replace(PLAIN, streams=16),
    "all layers": replace(PLAIN, layers=4),
    "one layer": replace(PLAIN, layers=1),
    "positions of the row": replace(PLAIN, positions="same"),
    "no LoRA": replace(PLAIN, modules=()),
    "LoRA of one module": replace(PLAIN, modules=("down",), rank=11),
    "untied head": replace(PLAIN, target=tiny_model(layers=4, head=Head.UNTIED)),
    "stretched rotation": replace(PLAIN, target=tiny_model(layers=4, rope_scaling=LLAMA3_SCALING)),
}


def relative_error(model: TinyStreaming, folder: Path, dtype: str, length: int) -> np.ndarray:
    """Errors of the runtime's logits in parts of their range."""
    base = write_tiny_llama(folder / "base", model.target)
    adapter = write_tiny_streaming(folder / "adapter", model, base)
    bundle = bundle_of(base, folder / "bundle", draft=adapter, dtype=dtype)
    tokens = np.random.default_rng(length).integers(6, model.target.vocab, length).tolist()
    llm = LLM(bundle, "streaming", threads=2)
    actual = llm.core.stream_logits(tokens)
    wanted = stream_logits(model, load_file(base / "model.safetensors"), tensors(model), tokens)
    main = llm.core.logits(EngineRole.target, tokens)[-1]
    assert (actual[0] == main).all()  # bit for bit, with streams and without
    return np.asarray(np.abs(actual - wanted.numpy()) / np.ptp(wanted.numpy()))


@pytest.mark.cpu_only("CUDA engines hold bf16")
@pytest.mark.parametrize("length", [1, 2, 47, 48, 49, 64, 101])
@pytest.mark.parametrize("name", VARIANTS)
def test_f32_equals_the_reference(name: str, length: int, tmp_path: Path) -> None:
    assert relative_error(VARIANTS[name], tmp_path, "f32", length).max() < 1e-5


@pytest.mark.parametrize("name", by_backend(cpu=list(VARIANTS), cuda=["plain", "many streams"]))
def test_bf16_is_close_to_the_reference(name: str, tmp_path: Path) -> None:
    error = relative_error(VARIANTS[name], tmp_path, "bf16", 71)
    assert error.max() < by_backend(cpu=5e-2, cuda=8e-2)
    assert error.mean() < 1e-2


@pytest.mark.parametrize("architecture", ["mistral", "qwen2", "qwen3"])
def test_other_architectures_keep_their_rows(architecture: str, tmp_path: Path) -> None:
    window = 24 if architecture == "mistral" else None
    model = replace(PLAIN, target=tiny_model(layers=4, architecture=architecture, window=window))
    base = write_tiny_llama(tmp_path / "base", model.target)
    adapter = write_tiny_streaming(tmp_path / "adapter", model, base)
    with_streams = LLM(
        bundle_of(base, tmp_path / "with", draft=adapter), "streaming", threads=2
    ).core
    tokens = np.random.default_rng(3).integers(6, model.target.vocab, 61).tolist()
    main = with_streams.logits(EngineRole.target, tokens)
    streams = with_streams.stream_logits(tokens)
    assert (streams[0] == main[-1]).all()
    assert np.abs(streams[1:] - main[-1]).max() > 0.1

"""Drafters over the target's last hidden state give the logits of the reference, at every depth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from backends import by_backend
from bundles import bundle_of, tiny_eagle, tiny_model
from numpy.typing import NDArray
from reference import parallel_eagle, parallel_medusa
from reference.parallel_medusa import TinyParallelMedusa
from reference.tiny_eagle import weights, write_tiny_eagle
from reference.tiny_llama import TinyLlama, write_tiny_llama
from reference.tiny_medusa import TinyMedusa, medusa_weights, write_tiny_medusa
from safetensors.torch import load_file
from specrt import LLM
from specrt._core import EngineRole
from torch.nn.functional import linear, silu

TARGET = tiny_model(context=96)
PARALLEL = TinyParallelMedusa(replace(TARGET, layers=1))
DEPTHS = 4


def output_matrix(target: Path) -> torch.Tensor:
    tensors = load_file(target / "model.safetensors")
    return tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]).float()


def medusa_logits(model: TinyMedusa, state: torch.Tensor) -> torch.Tensor:
    """Logits (heads, vocab) over the state (width,) of the last position with one."""
    w = {name: torch.from_numpy(values) for name, values in medusa_weights(model).items()}
    rows = []
    for head in range(model.heads):
        x = state
        for block in range(model.layers):
            at = f"{head}.{block}.linear"
            x = x + silu(linear(x, w[f"{at}.weight"], w[f"{at}.bias"]))
        rows.append(linear(x, w[f"{head}.{model.layers}.weight"]))
    return torch.stack(rows)


def drawn_tokens(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(6, TARGET.vocab, count).tolist()


def errors(actual: object, wanted: torch.Tensor) -> NDArray[np.floating]:
    """In parts of the range of what is wanted."""
    values = wanted.numpy()
    return np.asarray(np.abs(np.asarray(actual) - values) / np.ptp(values))


def medusa_error(target: TinyLlama, model: TinyMedusa, folder: Path, dtype: str) -> float:
    base = write_tiny_llama(folder / "target", target)
    heads = write_tiny_medusa(folder / "heads", model)
    core = LLM(bundle_of(base, folder / "bundle", draft=heads, dtype=dtype), "medusa", 1).core
    tokens = drawn_tokens(3, 40)
    actual = core.logits(EngineRole.drafter, [*tokens, *[0] * (model.heads - 1)], 64)
    state = parallel_eagle.target_outputs(base, tokens)[len(tokens) - 2]
    return float(errors(actual[-model.heads :], medusa_logits(model, state)).max())


@pytest.mark.cpu_only("CUDA engines hold bf16")
@pytest.mark.parametrize(("heads", "layers"), [(1, 1), (2, 1), (5, 1), (3, 2)])
def test_heads_equal_the_reference(heads: int, layers: int, tmp_path: Path) -> None:
    model = TinyMedusa(TARGET, heads=heads, layers=layers, told=heads)
    assert medusa_error(TARGET, model, tmp_path, "f32") < 1e-5


def test_heads_in_bf16_are_close_to_the_reference(tmp_path: Path) -> None:
    model = TinyMedusa(TARGET, heads=3, layers=2, told=3)
    assert medusa_error(TARGET, model, tmp_path, "bf16") < by_backend(cpu=4e-2, cuda=8e-2)


def parallel_error(folder: Path, model: TinyParallelMedusa, dtype: str, rows: int) -> float:
    base = write_tiny_llama(folder / "target", TARGET)
    drafter = parallel_medusa.write_folder(folder / "drafter", model, base)
    bundle = bundle_of(base, folder / "bundle", draft=drafter, dtype=dtype)
    tokens = drawn_tokens(rows, 50)
    core = LLM(bundle, "parallel-medusa", DEPTHS, threads=2).core
    actual = core.logits(EngineRole.drafter, [*tokens, *[0] * (DEPTHS - 1)], rows)
    assert not actual[0].any()
    states = parallel_eagle.target_outputs(base, tokens)[:-1]
    w, head = parallel_medusa.weights(model), output_matrix(base)
    wanted = parallel_medusa.draft_logits(model, w, states, head, DEPTHS)
    return float(errors(actual[1:], wanted).max())


@pytest.mark.cpu_only("CUDA engines hold bf16")
@pytest.mark.parametrize(("layers", "rows"), [(1, 64), (2, 64), (1, 7), (1, 1)])
def test_a_layer_over_states_equals_the_reference(layers: int, rows: int, tmp_path: Path) -> None:
    model = replace(PARALLEL, decoder=replace(PARALLEL.decoder, layers=layers))
    assert parallel_error(tmp_path, model, "f32", rows) < 1e-5


def test_a_layer_over_states_in_bf16_is_close_to_the_reference(tmp_path: Path) -> None:
    assert parallel_error(tmp_path, PARALLEL, "bf16", 64) < by_backend(cpu=4e-2, cuda=8e-2)


@pytest.mark.cpu_only("CUDA engines hold bf16")
def test_drafters_that_read_other_layers_share_a_target(tmp_path: Path) -> None:
    """Each finds its own columns among those that the target keeps."""
    base = write_tiny_llama(tmp_path / "target", TARGET)
    heads, eagle = TinyMedusa(TARGET, heads=3, told=3), tiny_eagle(TARGET, layers=1)
    drafters = [
        write_tiny_eagle(tmp_path / "eagle", eagle),
        write_tiny_medusa(tmp_path / "heads", heads),
        parallel_medusa.write_folder(tmp_path / "parallel", PARALLEL, base),
    ]
    bundle = bundle_of(base, tmp_path / "bundle", draft=drafters, dtype="f32")
    tokens = drawn_tokens(8, 30)
    states = parallel_eagle.target_outputs(base, tokens)
    features = parallel_eagle.target_features(base, tokens, eagle.feature_layers)
    w, head = parallel_medusa.weights(PARALLEL), output_matrix(base)
    eagle_weights = weights(eagle)
    wanted = {
        "medusa": medusa_logits(heads, states[len(tokens) - 2]),
        "parallel-medusa": parallel_medusa.draft_logits(PARALLEL, w, states[:-1], head, 3)[-3:],
        "parallel-eagle": parallel_eagle.draft_logits(eagle, eagle_weights, tokens, features, 3)[
            -3:
        ],
    }
    for method, logits in wanted.items():
        core = LLM(bundle, method, 3, threads=1).core
        mask = eagle.mask_token if method == "parallel-eagle" else 0
        actual = core.logits(EngineRole.drafter, [*tokens, mask, mask], 64)
        assert errors(actual[-3:], logits).max() < 1e-5, method

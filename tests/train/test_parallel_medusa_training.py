"""Training of a parallel Medusa drafter from end to end, and its folder: written, read, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from feature_runs import assert_resumes, tiny_run, with_config, without_tensor
from safetensors.torch import load_file
from small_models import write_tiny
from specrt.build.files import weights_hash
from specrt.train.drafter_layers import target_ends
from specrt.train.parallel import load_target, train_parallel
from specrt.train.parallel_medusa import ParallelMedusaOptions
from specrt.train.parallel_medusa_drafter import round_scores
from specrt.train.parallel_medusa_folder import read_parallel_medusa, write_parallel_medusa
from transformers import GPT2Config

DEPTHS = 3


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> ParallelMedusaOptions:
    root = tmp_path_factory.mktemp("parallel_medusa")
    return ParallelMedusaOptions(**tiny_run(root), depths=DEPTHS)


@pytest.fixture(scope="module")
def folder(options: ParallelMedusaOptions) -> Path:
    train_parallel(options)
    return options.out


def test_learns_and_exports(options: ParallelMedusaOptions, folder: Path, tmp_path: Path) -> None:
    first = train_parallel(replace(options, out=tmp_path / "first", steps=1))
    stored = json.loads((folder / "training.json").read_text())
    assert stored["best"]["loss"] < 0.8 * first.best.loss
    assert len(stored["best"]["by_position"]) == DEPTHS
    assert stored["options"]["layers"] == 1
    config = json.loads((folder / "config.json").read_text())
    target = json.loads((options.target / "config.json").read_text())
    layer = config.pop("layer")
    assert config == {
        "model_type": "parallel_medusa",
        "architectures": ["ParallelMedusa"],
        "depths": DEPTHS,
        "target_sha256": weights_hash(options.target),
    }
    assert layer["model_type"] == "llama"
    assert layer["num_hidden_layers"] == 1
    for name in ("hidden_size", "intermediate_size", "num_key_value_heads", "vocab_size"):
        assert layer[name] == target[name]
    saved = load_file(folder / "model.safetensors")
    assert {one.dtype for one in saved.values()} == {torch.bfloat16}
    parts = {f"self_attn.{name}_proj" for name in "qkvo"}
    parts |= {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    parts |= {"input_layernorm", "post_attention_layernorm"}
    names = {f"layers.0.{part}.weight" for part in parts}
    assert set(saved) == names | {"mask_hidden", "norm.weight"}
    assert saved["mask_hidden"].shape == (1, 1, target["hidden_size"])
    assert {"README.md", "tokenizer.json", "training.png"} <= {one.name for one in folder.iterdir()}


def test_starts_with_the_norm_of_the_target(options: ParallelMedusaOptions) -> None:
    target = load_target(options.target)
    with torch.no_grad():
        target.model.norm.weight.uniform_(0.5, 1.5)
    module = options.trainee(target).module
    assert torch.equal(module.norm.weight, target_ends(target)["norm.weight"])


def test_resumed_run_has_the_weights_of_a_whole_one(
    options: ParallelMedusaOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_resumes(options, tmp_path, monkeypatch)


def test_a_folder_comes_back(options: ParallelMedusaOptions, folder: Path, tmp_path: Path) -> None:
    target = load_target(options.target)
    again = read_parallel_medusa(folder, target, options.target)
    write_parallel_medusa(again, DEPTHS, options.target, tmp_path)
    assert weights_hash(tmp_path) == weights_hash(folder)
    copied, first = (json.loads((one / "config.json").read_text()) for one in (tmp_path, folder))
    assert copied == first
    trained = options.trainee(target).module
    trained.load_state_dict(
        torch.load(folder / "work" / "checkpoint.pt", weights_only=True)["model"]
    )
    expected = round_scores(trained, target, [6, 7, 8, 9], DEPTHS)
    found = round_scores(again, target, [6, 7, 8, 9], DEPTHS)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)


def test_training_goes_on_from_a_folder(
    options: ParallelMedusaOptions, folder: Path, tmp_path: Path
) -> None:
    more = replace(options, out=tmp_path, draft=folder, steps=1)
    own = more.trainee(load_target(options.target)).module.state_dict()["mask_hidden"]
    assert torch.equal(own, load_file(folder / "model.safetensors")["mask_hidden"].float())
    assert train_parallel(more).start == "out"
    with pytest.raises(ValueError, match="leave the option out"):
        replace(more, layers=1).trainee(load_target(options.target))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model_type": "medusa"}, "is no parallel Medusa drafter: model_type is 'medusa'"),
        ({"layer": {"model_type": "qwen3"}}, "has layers of type 'qwen3'; only llama"),
        ({"layer": {"hidden_size": 48}}, "is for another target: hidden_size 48, and this one"),
        ({"layer": {"vocab_size": 99}}, "is for another target: vocab_size 99, and this one has"),
        ({"layer": {"num_hidden_layers": 2}}, r"lacks layers\.1\."),
        ({"target_sha256": "0"}, "was trained for other weights than those of"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    fields: dict[str, Any],
    text: str,
    options: ParallelMedusaOptions,
    folder: Path,
    tmp_path: Path,
) -> None:
    other = with_config(folder, tmp_path / "other", **fields)
    with pytest.raises(ValueError, match=text) as caught:
        read_parallel_medusa(other, load_target(options.target), options.target)
    assert str(caught.value).startswith(str(other))


def test_other_weights_and_missing_tensors_are_refused(
    options: ParallelMedusaOptions, folder: Path, tmp_path: Path
) -> None:
    other = without_tensor(folder, tmp_path / "other", "mask_hidden")
    with pytest.raises(ValueError, match="lacks mask_hidden"):
        read_parallel_medusa(other, load_target(options.target), options.target)
    same_shape = write_tiny(tmp_path / "same_shape", 9, 32, 3)
    with pytest.raises(ValueError, match="was trained for other weights"):
        read_parallel_medusa(folder, load_target(same_shape), same_shape)


def test_other_architectures_are_refused(options: ParallelMedusaOptions) -> None:
    target = load_target(options.target)
    target.config = GPT2Config()
    with pytest.raises(ValueError, match="the target is a 'gpt2' model; specrt knows llama"):
        options.trainee(target)

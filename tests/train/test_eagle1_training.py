"""Training of an EAGLE-1 drafter from end to end, and its folder: written, read, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from feature_runs import assert_resumes, tiny_run, with_config, without_tensor
from safetensors.torch import load_file
from specrt.build.files import weights_hash
from specrt.train.eagle1 import Eagle1Options
from specrt.train.eagle1_drafter import round_scores
from specrt.train.eagle1_folder import read_eagle1, write_eagle1
from specrt.train.parallel import load_target, train_parallel
from specrt.train.trainee import DRAFTS


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Eagle1Options:
    return Eagle1Options(**tiny_run(tmp_path_factory.mktemp("eagle1")))


@pytest.fixture(scope="module")
def folder(options: Eagle1Options) -> Path:
    train_parallel(options)
    return options.out


def test_learns_and_exports(options: Eagle1Options, folder: Path, tmp_path: Path) -> None:
    first = train_parallel(replace(options, out=tmp_path / "first", steps=1))
    stored = json.loads((folder / "training.json").read_text())
    assert stored["best"]["loss"] < 0.8 * first.best.loss
    assert len(stored["best"]["by_position"]) == DRAFTS
    assert stored["options"]["feature_weight"] == 1.0
    assert stored["options"]["score_weight"] == 0.1
    config = json.loads((folder / "config.json").read_text())
    target = json.loads((options.target / "config.json").read_text())
    assert config["model_type"] == "eagle"
    assert config["architectures"] == ["EAGLEModel"]
    assert config["num_hidden_layers"] == 1
    assert config["fc_bias"] is True
    for name in ("hidden_size", "intermediate_size", "num_key_value_heads", "vocab_size"):
        assert config[name] == target[name]
    saved = load_file(folder / "model.safetensors")
    assert {one.dtype for one in saved.values()} == {torch.bfloat16}
    width = target["hidden_size"]
    assert saved["fc.weight"].shape == (width, 2 * width)
    own = load_file(options.target / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(saved["embed_tokens.weight"], own.bfloat16())  # the target's, as it was
    assert all(one.abs().max() > 0.0 for one in saved.values())  # all of it learns
    assert {"README.md", "tokenizer.json", "training.png"} <= {one.name for one in folder.iterdir()}
    assert "drafts token by token" in (folder / "README.md").read_text()


def test_resumed_run_has_the_weights_of_a_whole_one(
    options: Eagle1Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noise of a step follows from its number."""
    assert_resumes(options, tmp_path, monkeypatch)


def test_a_folder_comes_back(options: Eagle1Options, folder: Path, tmp_path: Path) -> None:
    target = load_target(options.target)
    again = read_eagle1(folder, target)
    write_eagle1(again, options.target, tmp_path)
    assert weights_hash(tmp_path) == weights_hash(folder)
    copied, first = (json.loads((one / "config.json").read_text()) for one in (tmp_path, folder))
    assert copied == first
    trained = options.trainee(target).module
    trained.load_state_dict(
        torch.load(folder / "work" / "checkpoint.pt", weights_only=True)["model"]
    )
    expected = round_scores(trained, target, [6, 7, 8, 9], 3)
    found = round_scores(again, target, [6, 7, 8, 9], 3)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)


def test_training_goes_on_from_a_folder(
    options: Eagle1Options, folder: Path, tmp_path: Path
) -> None:
    more = replace(options, out=tmp_path, draft=folder, steps=1)
    own = more.trainee(load_target(options.target)).module.state_dict()["fc.weight"]
    assert torch.equal(own, load_file(folder / "model.safetensors")["fc.weight"].float())
    assert train_parallel(more).start == "out"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model_type": "llama"}, "is no EAGLE-1 drafter: model_type is 'llama', not 'eagle'"),
        ({"hidden_size": 48}, "is for another target: hidden_size 48, and this one has 32"),
        ({"vocab_size": 99}, "is for another target: vocab_size 99, and this one has"),
        ({"num_hidden_layers": 2}, "has 2 layers and fc_bias True; an EAGLE-1 drafter has one"),
        ({"fc_bias": False}, "has 1 layers and fc_bias False; an EAGLE-1 drafter has one"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    fields: dict[str, Any], text: str, options: Eagle1Options, folder: Path, tmp_path: Path
) -> None:
    other = with_config(folder, tmp_path / "other", **fields)
    with pytest.raises(ValueError, match=text) as caught:
        read_eagle1(other, load_target(options.target))
    assert str(caught.value).startswith(str(other))


@pytest.mark.parametrize("name", ["fc.bias", "embed_tokens.weight"])
def test_missing_tensors_are_named(
    name: str, options: Eagle1Options, folder: Path, tmp_path: Path
) -> None:
    other = without_tensor(folder, tmp_path / "other", name)
    with pytest.raises(ValueError, match=f"lacks {name}"):
        read_eagle1(other, load_target(options.target))


@pytest.mark.parametrize("change", [{"score_weight": 0.0}, {"feature_weight": -1.0}])
def test_bad_weights(options: Eagle1Options, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must not be negative, the score weight"):
        replace(options, **change)

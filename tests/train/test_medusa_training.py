"""Training of Medusa heads from end to end, and their folder: written, read, refused."""

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
from specrt.build.medusa import is_medusa
from specrt.train.medusa import MedusaOptions
from specrt.train.medusa_folder import WEIGHTS, read_medusa, write_medusa
from specrt.train.medusa_heads import round_scores
from specrt.train.parallel import Run, load_target, train_parallel
from transformers import GPT2Config

HEADS = 3


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> MedusaOptions:
    return MedusaOptions(**tiny_run(tmp_path_factory.mktemp("medusa")), depths=HEADS)


@pytest.fixture(scope="module")
def folder(options: MedusaOptions) -> Path:
    train_parallel(options)
    return options.out


def test_learns_and_exports(options: MedusaOptions, folder: Path, tmp_path: Path) -> None:
    first = train_parallel(replace(options, out=tmp_path / "first", steps=1))
    stored = json.loads((folder / "training.json").read_text())
    assert stored["best"]["loss"] < 0.8 * first.best.loss
    assert len(stored["best"]["by_position"]) == HEADS
    assert stored["options"]["head_layers"] == 1
    target = json.loads((options.target / "config.json").read_text())
    width, vocab = target["hidden_size"], target["vocab_size"]
    assert json.loads((folder / "config.json").read_text()) == {
        "model_type": "medusa",
        "medusa_num_heads": HEADS,
        "medusa_num_layers": 1,
        "base_model_name_or_path": str(options.target),
        "hidden_size": width,
        "vocab_size": vocab,
    }
    assert is_medusa(folder)
    saved = load_file(folder / WEIGHTS)
    assert {one.dtype for one in saved.values()} == {torch.bfloat16}
    shapes = {
        "0.linear.weight": (width, width),
        "0.linear.bias": (width,),
        "1.weight": (vocab, width),
    }
    assert {name: tuple(one.shape) for name, one in saved.items()} == {
        f"{head}.{name}": shape for head in range(HEADS) for name, shape in shapes.items()
    }
    assert {"README.md", "tokenizer.json", "training.png"} <= {one.name for one in folder.iterdir()}
    assert (folder / "README.md").read_text().startswith("# Medusa heads for target\n")


def test_one_head_drafts_one_token(options: MedusaOptions, tmp_path: Path) -> None:
    report = train_parallel(replace(options, out=tmp_path, depths=1, steps=1))
    assert len(report.best.by_position) == 1


def test_resumed_run_has_the_weights_of_a_whole_one(
    options: MedusaOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_resumes(options, tmp_path, monkeypatch)


def test_a_folder_comes_back(options: MedusaOptions, folder: Path, tmp_path: Path) -> None:
    target = load_target(options.target)
    again = read_medusa(folder, target)
    write_medusa(again, options.target, tmp_path)
    assert weights_hash(tmp_path) == weights_hash(folder)
    trained = options.trainee(target).module
    trained.load_state_dict(
        torch.load(options.out / "work" / "checkpoint.pt", weights_only=True)["model"]
    )
    expected = round_scores(trained, target, [6, 7, 8, 9], HEADS)
    found = round_scores(again, target, [6, 7, 8, 9], HEADS)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)


def test_training_goes_on_from_a_folder(
    options: MedusaOptions, folder: Path, tmp_path: Path
) -> None:
    more = replace(options, out=tmp_path, draft=folder, steps=1)
    own = Run(more).trainee.module.state_dict()["lm_heads.2.weight"]
    assert torch.equal(own, load_file(folder / WEIGHTS)["2.1.weight"].float())
    assert train_parallel(more).start == "out"
    with pytest.raises(ValueError, match="has 3 heads with 1 layers each, not 3 with 2"):
        replace(more, head_layers=2).trainee(load_target(options.target))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model_type": "llama"}, "is no folder of Medusa heads: model_type is 'llama'"),
        ({"hidden_size": 48}, "is for another target: hidden_size 48, and this one has 32"),
        ({"vocab_size": 99}, "is for another target: vocab_size 99, and this one has"),
        ({"medusa_num_heads": 4}, r"lacks 3\.0\.linear\.bias"),
        ({"medusa_num_heads": 2}, r"has 2\.0\.linear\.bias, which nothing reads"),
        ({"medusa_num_layers": 2}, r"lacks 0\.1\.linear\.bias"),
        ({"medusa_num_heads": "4"}, "has medusa_num_heads '4', no positive number"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    fields: dict[str, Any], text: str, options: MedusaOptions, folder: Path, tmp_path: Path
) -> None:
    other = with_config(folder, tmp_path / "other", **fields)
    with pytest.raises(ValueError, match=text) as caught:
        read_medusa(other, load_target(options.target))
    assert str(caught.value).startswith(str(other))


def test_missing_tensors_are_named(options: MedusaOptions, folder: Path, tmp_path: Path) -> None:
    other = without_tensor(folder, tmp_path / "other", "1.1.weight")
    with pytest.raises(ValueError, match=r"lacks 1\.1\.weight"):
        read_medusa(other, load_target(options.target))


def test_what_cannot_be_trained(options: MedusaOptions) -> None:
    target = load_target(options.target)
    with pytest.raises(ValueError, match="at least one layer, not 0"):
        replace(options, head_layers=0).trainee(target)
    target.config = GPT2Config()
    with pytest.raises(ValueError, match="the target is a 'gpt2' model; specrt knows llama"):
        options.trainee(target)

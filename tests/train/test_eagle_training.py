"""Training of a P-EAGLE drafter from end to end, and its folder: written, read, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import write_rows, write_tiny
from specrt.build.files import weights_hash
from specrt.train.eagle_folder import read_eagle, write_eagle
from specrt.train.parallel import Run, load_target, train_parallel
from specrt.train.parallel_eagle import EagleOptions, find_mask_token
from transformers import AutoConfig, GPT2Config

DEPTHS = 3


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EagleOptions:
    root = tmp_path_factory.mktemp("eagle")
    return EagleOptions(
        target=write_tiny(root / "target", 1, 32, 3),
        data=(write_rows(root / "rows.jsonl"),),
        out=root / "out",
        target_layers=(0, 1, 2),
        depths=DEPTHS,
        steps=80,
        batch_tokens=128,
        learning_rate=3e-2,
        precision="f32",
        loss="ce",
        validation_prompts=2,
        validation_tokens=12,
        check_s=1e6,
    )


@pytest.fixture(scope="module")
def folder(options: EagleOptions) -> Path:
    train_parallel(options)
    return options.out


def test_learns_and_exports(options: EagleOptions, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    target = json.loads((options.target / "config.json").read_text())
    assert config["speculators_model_type"] == "peagle"
    assert config["eagle_aux_hidden_state_layer_ids"] == [0, 1, 2]
    assert config["transformer_layer_config"]["hidden_size"] == target["hidden_size"]
    assert config["speculators_config"]["verifier"]["architectures"] == ["LlamaForCausalLM"]
    assert config["speculators_config"]["proposal_methods"][0]["speculative_tokens"] == DEPTHS
    tokens = json.loads((options.target / "tokenizer.json").read_text())["model"]["vocab"]
    assert config["mask_token_id"] == tokens["<|mask|>"]
    assert {"README.md", "tokenizer.json", "training.png"} <= {one.name for one in folder.iterdir()}
    stored = json.loads((folder / "training.json").read_text())
    assert stored["best"]["loss"] < np.log(target["vocab_size"]) - 0.5
    assert stored["start"] == "random weights"
    assert stored["options"]["target_layers"] == [0, 1, 2]
    saved = load_file(folder / "model.safetensors")
    assert {one.dtype for one in saved.values()} == {torch.bfloat16}
    own = load_file(options.target / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(saved["lm_head.weight"], own.bfloat16())  # the target's, as it was
    assert not torch.equal(saved["embed_tokens.weight"], own.bfloat16())
    assert saved["mask_hidden"].shape == (1, 1, 3 * target["hidden_size"])


def test_resumed_run_has_the_weights_of_a_whole_one(
    options: EagleOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(options, out=tmp_path / "whole", steps=4, loss="kl")
    train_parallel(whole)
    parts = replace(whole, out=tmp_path / "parts", check_s=0.0)
    step = Run.step
    done = []

    def interrupted(run: Run, *args: object) -> float:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(None)
        return step(run, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_parallel(parts)
    train_parallel(parts)
    saved = [
        torch.load(one.out / "work" / "checkpoint.pt", weights_only=True)["model"]
        for one in (whole, parts)
    ]
    for name, tensor in saved[0].items():
        assert torch.equal(tensor, saved[1][name]), name


def test_a_folder_comes_back(options: EagleOptions, folder: Path, tmp_path: Path) -> None:
    again = read_eagle(folder, load_target(options.target))
    tmp_path.joinpath("copy").mkdir()
    write_eagle(again, DEPTHS, options.target, tmp_path / "copy")
    assert weights_hash(tmp_path / "copy") == weights_hash(folder)
    copied, first = (
        json.loads((one / "config.json").read_text()) for one in (tmp_path / "copy", folder)
    )
    assert copied == first


def test_what_a_folder_shares_with_its_target(
    options: EagleOptions, folder: Path, tmp_path: Path
) -> None:
    """The package may leave out the head and the embedding, and add tensors of its training."""
    other = rewrite(folder, tmp_path / "other", lambda config: None)
    tensors = load_file(other / "model.safetensors")
    stored = tensors.pop("embed_tokens.weight"), tensors.pop("lm_head.weight")
    tensors["verifier_norm.weight"] = torch.zeros(32)
    save_file(tensors, other / "model.safetensors")
    target = load_target(options.target)
    again = read_eagle(other, target)
    assert torch.equal(again.embed_tokens.weight, target.get_input_embeddings().weight)
    assert torch.equal(again.lm_head.weight, target.get_input_embeddings().weight)
    assert not torch.equal(again.embed_tokens.weight, stored[0].float())


def test_training_goes_on_from_a_folder(
    options: EagleOptions, folder: Path, tmp_path: Path
) -> None:
    more = replace(options, out=tmp_path / "more", draft=folder, target_layers=None, steps=1)
    run = Run(more)
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(run.trainee.module.state_dict()["fc.weight"], stored["fc.weight"].float())
    first = json.loads((folder / "training.json").read_text())["checks"][-1]["loss"]
    assert train_parallel(more).best.loss < first + 0.5
    with pytest.raises(ValueError, match="leave the options out"):
        train_parallel(replace(more, layers=2))


def rewrite(folder: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy whose config.json is changed."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    change(config)
    (out / "config.json").write_text(json.dumps(config))
    return out


def layer(**fields: object) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["transformer_layer_config"].update(fields)


def top(**fields: object) -> Callable[[dict[str, Any]], None]:
    return lambda config: config.update(fields)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (top(speculators_model_type="eagle3"), "speculators_model_type is 'eagle3', not 'peagle'"),
        (layer(model_type="qwen3"), "has layers of type 'qwen3'; only llama"),
        (layer(hidden_size=48), "is for another target: hidden_size 48, and this one has 32"),
        (layer(vocab_size=99), "is for another target: vocab_size 99, and this one has"),
        (top(draft_vocab_size=99), "a reduced vocabulary is not supported"),
        (top(eagle_aux_hidden_state_layer_ids=[0, 1, 3]), r"different ones in \[0, 2\]"),
        (top(eagle_aux_hidden_state_layer_ids=None), "the target has 3 layers; name those"),
        (top(eagle_aux_hidden_state_layer_ids=[0, 1]), r"fc_norm\.2\.weight, which nothing reads"),
        (layer(intermediate_size=48), r"has layers\.0\.mlp\.\w+\.weight of shape"),
        (top(mask_token_id=None), "has mask_token_id None, no token below"),
        (layer(num_hidden_layers=2), r"lacks layers\.1\."),
        (top(norm_before_fc=True), r"lacks input_norm\.weight"),
        (
            lambda config: config["speculators_config"]["verifier"].update(
                architectures=["Qwen3ForCausalLM"]
            ),
            "is for another target: Qwen3ForCausalLM, and this one is LlamaForCausalLM",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    change: Callable[[dict[str, Any]], None],
    text: str,
    options: EagleOptions,
    folder: Path,
    tmp_path: Path,
) -> None:
    other = rewrite(folder, tmp_path / "other", change)
    with pytest.raises(ValueError, match=text) as caught:
        read_eagle(other, load_target(options.target))
    assert str(caught.value).startswith(str(other))


def test_damaged_folders_are_refused(options: EagleOptions, folder: Path, tmp_path: Path) -> None:
    target = load_target(options.target)
    with pytest.raises(ValueError, match=r"its config\.json cannot be read"):
        read_eagle(tmp_path, target)
    other = rewrite(folder, tmp_path / "other", lambda config: None)
    tensors = load_file(other / "model.safetensors")
    save_file(tensors | {"extra": torch.zeros(3)}, other / "model.safetensors")
    with pytest.raises(ValueError, match="has extra, which nothing reads"):
        read_eagle(other, target)
    (other / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no safetensors file"):
        read_eagle(other, target)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"depths": 1}, "has 2 depths or more"),
        ({"target_layers": (1, 1)}, "different ones"),
        ({"target_layers": None}, "the target has 3 layers; name those to read"),
        ({"mask_token": 10**6}, "mask token 1000000 is no token below"),
    ],
)
def test_bad_options(options: EagleOptions, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(options, **change).trainee(load_target(options.target))


def test_a_token_that_no_text_has(options: EagleOptions, tmp_path: Path) -> None:
    vocab = AutoConfig.from_pretrained(options.target).vocab_size
    named = find_mask_token(options.target, vocab)
    content = json.loads((options.target / "tokenizer.json").read_text().replace("mask", "word"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="unused; name one that no text has"):
        find_mask_token(tmp_path, vocab)
    assert find_mask_token(tmp_path, vocab + 2) == vocab != named


def test_other_architectures_are_refused(options: EagleOptions) -> None:
    target = load_target(options.target)
    target.config = GPT2Config(n_layer=9)
    with pytest.raises(ValueError, match="the target is a 'gpt2' model; specrt knows llama"):
        replace(options, target_layers=None).trainee(target)

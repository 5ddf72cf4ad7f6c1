"""Folders of drafters in PARD's form: read, trained further, written again, refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bundles import write_mask_drafter
from safetensors.torch import load_file, save_file
from small_models import write_rows, write_tiny
from specrt.train.mask_drafter import export_drafter, start_drafter
from specrt.train.parallel import ParallelOptions, load_target, train_parallel

DEPTHS = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pard")
    write_tiny(folder / "target", 1, 32, 2)
    write_mask_drafter(write_tiny(folder / "draft", 2, 16, 1), folder / "drafter")
    return folder


@pytest.fixture(scope="module")
def options(root: Path) -> ParallelOptions:
    return ParallelOptions(
        target=root / "target",
        draft=root / "drafter",
        data=(write_rows(root / "rows.jsonl"),),
        out=root / "out",
        depths=DEPTHS,
        steps=1,
        batch_tokens=64,
        precision="f32",
        validation_prompts=1,
        validation_tokens=6,
    )


def config_of(folder: Path) -> dict[str, object]:
    config: dict[str, object] = json.loads((folder / "config.json").read_text())
    return config


def changed(folder: Path, out: Path, **fields: object) -> Path:
    shutil.copytree(folder, out)
    (out / "config.json").write_text(json.dumps(config_of(folder) | fields))
    return out


def test_a_folder_comes_back(root: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    source = root / "drafter"
    for folder in folders:
        folder.mkdir()
        model = start_drafter(source, int(str(config_of(source)["vocab_size"])), None, False)
        export_drafter(model, DEPTHS, root / "target", folder)
        source = folder
    given = config_of(root / "drafter")
    assert config_of(folders[0])["pard_token"] == given["pard_token"]
    assert config_of(folders[0]) == config_of(folders[1])
    first, second = (load_file(folder / "model.safetensors") for folder in folders)
    original = load_file(root / "drafter" / "model.safetensors")
    assert set(first) == set(second) == set(original)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
        assert torch.equal(tensor, original[name].bfloat16())


def test_a_mask_within_the_vocabulary_stays_there(
    options: ParallelOptions, root: Path, tmp_path: Path
) -> None:
    """As published drafters have it: a token of the target that no text has."""
    inside = changed(root / "draft", tmp_path / "inside", pard_token=6)
    trained = replace(options, draft=inside, out=tmp_path / "out")
    train_parallel(trained)
    before, after = config_of(inside), config_of(trained.out)
    assert (after["pard_token"], after["vocab_size"]) == (6, before["vocab_size"])
    assert after["parallel_depths"] == DEPTHS
    rows = [
        load_file(folder / "model.safetensors")["model.embed_tokens.weight"][6].float()
        for folder in (inside, trained.out)
    ]
    assert not torch.allclose(*rows, atol=1e-6)  # the mask was learned


@pytest.mark.parametrize("token", [-1, 10**6, "5", True])
def test_a_mask_that_is_no_token(
    token: object, options: ParallelOptions, root: Path, tmp_path: Path
) -> None:
    other = changed(root / "drafter", tmp_path / "other", pard_token=token)
    with pytest.raises(ValueError, match=r"pard_token .* is not a token below") as caught:
        replace(options, draft=other).trainee(load_target(options.target))
    assert str(other) in str(caught.value)


def test_another_vocabulary(root: Path, tmp_path: Path) -> None:
    model = start_drafter(root / "draft", 500, None, False)
    model.config.pard_token = 499
    (tmp_path / "other").mkdir()
    export_drafter(model, DEPTHS, root / "target", tmp_path / "other")
    with pytest.raises(ValueError, match="a parallel drafter with 500 tokens, and"):
        vocab = int(str(config_of(root / "target")["vocab_size"]))
        start_drafter(tmp_path / "other", vocab + 1, None, False)


def test_a_parallel_drafter_is_no_plain_draft(options: ParallelOptions) -> None:
    with pytest.raises(ValueError, match="fills masks; train it with: train parallel"):
        replace(options, depths=1).trainee(load_target(options.target))


def test_other_tensors(options: ParallelOptions, root: Path, tmp_path: Path) -> None:
    target = load_target(options.target)
    name = "model.layers.0.mlp.up_proj.weight"
    other = changed(root / "drafter", tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    for content, text in (
        ({key: one for key, one in tensors.items() if key != name}, f"lacks {name}"),
        (tensors | {"model.extra": torch.zeros(2)}, "has model.extra, which nothing reads"),
        (tensors | {name: tensors[name][:-1].clone()}, r"up_proj.weight of shape \[31, 16\]; its"),
    ):
        save_file(content, other / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=text) as caught:
            replace(options, draft=other).trainee(target)
        assert str(other) in str(caught.value)
    (other / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be loaded"):
        replace(options, draft=other).trainee(target)

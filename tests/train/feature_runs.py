"""Tiny runs of drafters that read the target's last states: what all kinds of them must do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import write_rows, write_tiny
from specrt.train.parallel import Run, RunOptions, train_parallel


def tiny_run(root: Path) -> dict[str, Any]:
    """Options that all kinds share."""
    return {
        "target": write_tiny(root / "target", 1, 32, 3),
        "data": (write_rows(root / "rows.jsonl"),),
        "out": root / "out",
        "loss": "ce",
        "steps": 150,
        "batch_tokens": 128,
        "learning_rate": 3e-2,
        "precision": "f32",
        "validation_prompts": 2,
        "validation_tokens": 12,
        "check_s": 1e6,
    }


def assert_resumes(options: RunOptions, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was interrupted ends with the weights of one that was not."""
    whole = replace(options, out=root / "whole", steps=4, loss="kl")
    train_parallel(whole)
    parts = replace(whole, out=root / "parts", check_s=0.0)
    step, done = Run.step, []

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
    assert saved[0].keys() == saved[1].keys()
    for name, tensor in saved[0].items():
        assert torch.equal(tensor, saved[1][name]), name


def with_config(folder: Path, out: Path, **fields: object) -> Path:
    """A copy whose config.json has other fields."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(merged(config, fields)))
    return out


def merged(config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Objects within objects are merged too."""
    return dict(config) | {
        key: merged(config[key], one) if isinstance(one, dict) else one
        for key, one in fields.items()
    }


def without_tensor(folder: Path, out: Path, name: str) -> Path:
    """A copy that lacks a tensor."""
    shutil.copytree(folder, out)
    file = next(out.glob("*.safetensors"))
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file)
    return out

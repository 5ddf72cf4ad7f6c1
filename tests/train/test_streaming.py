"""Training of streams from end to end, on tiny models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_models import write_rows, write_tiny
from specrt.build.files import weights_hash
from specrt.train import parallel
from specrt.train.parallel import load_target, train_parallel
from specrt.train.stream_folder import read_streams
from specrt.train.streaming import StreamOptions


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> StreamOptions:
    root = tmp_path_factory.mktemp("streaming")
    return StreamOptions(
        target=write_tiny(root / "target", 1, 32, 3),
        data=(write_rows(root / "rows.jsonl"),),
        out=root / "out",
        streams=3,
        stream_layers=2,
        lora_rank=4,
        steps=30,
        batch_tokens=128,
        optimizer="adamw",
        learning_rate=1e-2,
        embedding_rate=1e-2,
        exit_weight=1.0,
        precision="f32",
        loss="ce",
        validation_prompts=2,
        validation_tokens=12,
        check_s=1e6,
    )


def test_learns_and_writes_an_adapter(options: StreamOptions) -> None:
    before = weights_hash(options.target)
    first = train_parallel(replace(options, out=options.out / "first", steps=1))
    report = train_parallel(options)
    assert report.best.loss < first.best.loss - 0.1
    assert len(report.best.by_position) == 3
    assert weights_hash(options.target) == before
    config = json.loads((options.out / "config.json").read_text())
    vocab = json.loads((options.target / "config.json").read_text())["vocab_size"]
    assert config == {
        "architectures": ["SpeculativeStreaming"],
        "model_type": "speculative_streaming",
        "streams": 3,
        "stream_layers": 2,
        "stream_positions": "shifted",
        "lora_rank": 4,
        "lora_modules": ["qkv", "o", "down"],
        "prune_rank": 8,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "vocab_size": vocab,
        "base_sha256": before,
    }
    saved = load_file(options.out / "model.safetensors")
    assert {one.dtype for one in saved.values()} == {torch.bfloat16}
    loras = {
        f"layers.{layer}.{module}.lora_{part}": shape
        for layer in (1, 2)
        for module, a, b in (("qkv", 32, 64), ("o", 32, 32), ("down", 64, 32))
        for part, shape in (("a", (4, a)), ("b", (b, 4)))
    }
    assert {name: tuple(one.shape) for name, one in saved.items()} == {
        "stream_embeddings": (3, 32),
        "prune.lora_a": (8, 32),
        "prune.lora_b": (32, 8),
        **loras,
    }
    assert all(one.abs().max() > 0.0 for one in saved.values())  # all of it learns
    card = (options.out / "README.md").read_text()
    assert card.startswith("# Speculative Streaming adapter for target\n")
    assert "drafts 3 positions beside the target's own token" in card


def test_goes_on_from_an_adapter(options: StreamOptions, tmp_path: Path) -> None:
    first = replace(options, out=tmp_path / "first", steps=2, lora_modules=("o",))
    train_parallel(first)
    more = replace(first, out=tmp_path / "more", draft=first.out, steps=1)
    assert train_parallel(more).start == "first"
    with pytest.raises(ValueError, match="has the shape"):
        train_parallel(replace(more, out=tmp_path / "other", streams=2))


def test_goes_on_with_the_directions_of_most_effect(options: StreamOptions, tmp_path: Path) -> None:
    first = replace(options, out=tmp_path / "first", steps=2)
    train_parallel(first)
    narrow = replace(first, draft=first.out, lora_rank=2)
    target = load_target(options.target)
    wide = read_streams(first.out, target, options.target)
    kept = narrow.trainee(target).module
    assert torch.equal(kept.stream_embeddings, wide.stream_embeddings)
    assert torch.equal(kept.prune.b @ kept.prune.a, wide.prune.b @ wide.prune.a)
    loras = [name for name in dict(wide.named_modules()) if name.endswith(("qkv", ".o", "down"))]
    assert len(loras) == 6
    for name in loras:
        whole, part = wide.get_submodule(name), kept.get_submodule(name)
        product = (whole.lora_b @ whole.lora_a).detach().numpy()
        rest = product - (part.lora_b @ part.lora_a).detach().numpy()
        sizes = np.linalg.svd(product, compute_uv=False)
        # No product of rank 2 comes closer (Eckart and Young 1936).
        assert np.linalg.norm(rest) == pytest.approx(np.linalg.norm(sizes[2:]), rel=1e-3)
        assert np.linalg.norm(rest) < 0.9 * np.linalg.norm(product)
    with pytest.raises(ValueError, match="or for a lower rank"):
        replace(first, draft=first.out, lora_rank=8).trainee(target)


def test_shared_mode_writes_a_tuned_target(options: StreamOptions, tmp_path: Path) -> None:
    report = train_parallel(replace(options, out=tmp_path, mode="shared"))
    untuned = load_target(options.target)
    tuned = load_target(tmp_path)
    ids = torch.tensor([[6, 7, 8, 9]])
    with torch.inference_mode():
        assert not torch.equal(tuned(ids).logits, untuned(ids).logits)
    adapter = read_streams(tmp_path / "streaming", tuned, tmp_path)
    assert set(adapter.state_dict()) == {"stream_embeddings", "prune.lora_a", "prune.lora_b"}
    config = json.loads((tmp_path / "streaming" / "config.json").read_text())
    assert config["lora_modules"] == []
    assert config["base_sha256"] == weights_hash(tmp_path) != weights_hash(options.target)
    assert (tmp_path / "tokenizer.json").is_file()
    assert report.options["mode"] == "shared"


@pytest.mark.parametrize("mode", ["lossless", "shared"])
def test_resumed_run_has_the_weights_of_a_whole_one(
    options: StreamOptions, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(options, out=tmp_path / "whole", steps=6, mode=mode, loss="kl")
    train_parallel(whole)
    parts = replace(whole, out=tmp_path / "parts", check_s=0.0)
    step, done = parallel.Run.step, []

    def interrupted(run: parallel.Run, *args: object) -> float:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(None)
        return step(run, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(parallel.Run, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_parallel(parts)
    report = train_parallel(parts)
    assert [check.steps for check in report.checks] == [1, 2, 3, 4, 5, 6]
    saved = [
        torch.load(one.out / "work" / "checkpoint.pt", weights_only=True)["model"]
        for one in (whole, parts)
    ]
    assert saved[0].keys() == saved[1].keys()
    for name, tensor in saved[0].items():
        assert torch.equal(tensor, saved[1][name]), name


def test_loss_weighs_kinds_by_their_means(options: StreamOptions) -> None:
    losses = torch.tensor([1.0, 3.0, 10.0, 20.0, 6.0])
    depth_of = torch.tensor([-1, -1, 1, 1, 2])
    weighted = replace(options, stream_weight=0.5).mean_loss(losses, depth_of)
    assert weighted.item() == 2.0 + 0.5 * 15.0 + 0.5 * 6.0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mode": "loud"}, "unknown mode 'loud'; there are lossless, shared"),
        ({"streams": 0}, "streams must be 1 to 63, not 0"),
        ({"stream_positions": "next"}, "unknown positions 'next'; there are shifted, same"),
        ({"lora_rank": 0}, "LoRA rank must be at least 1"),
        ({"lora_modules": ("qkv", "up")}, "LoRA modules are some of qkv, o, down, each once"),
        ({"stream_weight": 0.0}, "stream weight must be positive"),
        ({"position_share": 1.5}, "position share must be in"),
        ({"mode": "shared", "draft": Path("some")}, "in lossless mode alone"),
        ({"loss": "mse"}, "unknown loss 'mse'"),
    ],
)
def test_bad_options(options: StreamOptions, change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(options, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("layers", [0, 4])
def test_layers_that_the_target_lacks(options: StreamOptions, layers: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"stream layers must be 1 to 3, .* not {layers}"):
        train_parallel(replace(options, out=tmp_path, stream_layers=layers))


def test_target_of_another_family(options: StreamOptions) -> None:
    target = load_target(options.target)
    target.config.model_type = "gpt2"
    with pytest.raises(ValueError, match="the target is a 'gpt2' model; streams go through"):
        options.trainee(target)


def test_data_without_tokens(options: StreamOptions, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    with pytest.raises(ValueError, match=r"no row of .* has an answer"):
        train_parallel(replace(options, out=tmp_path / "out", data=(rows,)))


def test_adapters_of_others_are_refused(options: StreamOptions, tmp_path: Path) -> None:
    target = load_target(options.target)
    with pytest.raises(ValueError, match="is a 'llama' model, not a speculative_streaming adapter"):
        read_streams(options.target, target, options.target)
    with pytest.raises(ValueError, match=r"holds no adapter: it has no config\.json"):
        read_streams(tmp_path, target, options.target)
    adapter = tmp_path / "adapter"
    train_parallel(replace(options, out=adapter, steps=1))
    other = write_tiny(tmp_path / "other", 9, 32, 3)
    with pytest.raises(ValueError, match="was trained for other weights"):
        read_streams(adapter, load_target(other), other)
    deeper = write_tiny(tmp_path / "deeper", 9, 32, 4)
    with pytest.raises(ValueError, match="with num_hidden_layers 3; this one has 4"):
        read_streams(adapter, load_target(deeper), deeper)
    wrong = shutil.copytree(adapter, tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps(config | {"streams": 2}))
    with pytest.raises(ValueError, match="tensors are not those that its config"):
        read_streams(wrong, target, options.target)

"""Training of parallel drafters and drafts from end to end, on tiny models."""

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
from specrt.build import BuildError
from specrt.train import folders, parallel, position_acceptance
from specrt.train.acceptance import count_rounds
from specrt.train.data import Example
from specrt.train.generate import TOP, Scored, save_shard
from specrt.train.mask_drafter import depth_logits, start_drafter
from specrt.train.mask_trainee import MaskTrainee
from specrt.train.parallel import ParallelOptions, train_parallel
from specrt.train.rows import example_of
from specrt.train.trainee import DRAFTS, top_tokens
from transformers import LlamaForCausalLM


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> ParallelOptions:
    root = tmp_path_factory.mktemp("parallel")
    return ParallelOptions(
        target=write_tiny(root / "target", 1, 32, 2),
        draft=write_tiny(root / "draft", 2, 16, 1),
        data=(write_rows(root / "rows.jsonl"),),
        out=root / "out",
        depths=3,
        steps=30,
        batch_tokens=128,
        learning_rate=5e-3,
        precision="f32",
        loss="ce",
        validation_prompts=2,
        validation_tokens=12,
        check_s=1e6,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict())


def test_learns_and_exports(options: ParallelOptions) -> None:
    report = train_parallel(options)
    config = json.loads((options.out / "config.json").read_text())
    vocab = json.loads((options.target / "config.json").read_text())["vocab_size"]
    assert (config["vocab_size"], config["pard_token"]) == (vocab + 1, vocab)
    assert config["parallel_depths"] == 3
    assert {"README.md", "tokenizer.json", "training.png", "training.json"} <= {
        path.name for path in options.out.iterdir()
    }
    stored = json.loads((options.out / "training.json").read_text())
    assert stored["best"]["steps"] == 30
    assert len(stored["best"]["by_position"]) == 3
    assert report.baseline is not None
    assert report.best.loss < np.log(vocab) - 0.5
    saved = load_file(options.out / "model.safetensors")
    assert "lm_head.weight" not in saved  # tied: the embedding is stored once
    assert {one.dtype for one in saved.values()} == {torch.bfloat16}
    tokens = [*range(6, 16)]
    model = LlamaForCausalLM.from_pretrained(options.out, dtype=torch.float32)
    assert depth_logits(model, tokens, 3).shape == (3, vocab + 1)


def test_resumed_run_has_the_weights_of_a_whole_one(
    options: ParallelOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(options, out=tmp_path / "whole", steps=8)
    train_parallel(whole)
    parts = replace(whole, out=tmp_path / "parts", check_s=0.0)
    step = parallel.Run.step
    done = []

    def interrupted(run: parallel.Run, *args: object) -> float:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(None)
        return step(run, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(parallel.Run, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_parallel(parts)
    report = train_parallel(parts)
    assert [check.steps for check in report.checks] == [1, 2, 3, 4, 5, 6, 7, 8]
    saved = [
        torch.load(one.out / "work" / "checkpoint.pt", weights_only=True)["model"]
        for one in (whole, parts)
    ]
    for name, tensor in saved[0].items():
        assert torch.equal(tensor, saved[1][name]), name


def test_other_options_do_not_go_on_from_a_run(options: ParallelOptions, tmp_path: Path) -> None:
    first = replace(options, out=tmp_path, steps=1)
    train_parallel(first)
    with pytest.raises(ValueError, match="holds a run with other options"):
        train_parallel(replace(first, learning_rate=1e-4))


@torch.inference_mode()
def test_online_and_stored_teacher_agree(options: ParallelOptions, tmp_path: Path) -> None:
    run = parallel.Run(replace(options, out=tmp_path))
    scored = []
    for example in map(example_of, run.examples):
        path = torch.tensor([example.ids[:-1].tolist()])
        best = run.target(path).logits[0, example.start - 1 :].log_softmax(-1).topk(TOP)
        top_ids, top_logp = best.indices.numpy(), best.values.numpy()
        scored.append(Scored(example, top_ids.astype(np.uint16), top_logp.astype(np.float16)))
    shard = tmp_path / "answers-0000.npz"
    save_shard(shard, scored)
    stored = parallel.Run(replace(options, out=tmp_path / "stored", data=(shard,)))
    batch = next(stored.batches(0))
    assert batch.top is not None
    ids, logp = top_tokens(run.target(batch.ids).logits, batch)
    torch.testing.assert_close(batch.top[1], logp, atol=1e-2, rtol=1e-2)
    assert (batch.top[0] == ids).float().mean() > 0.95  # near ties change places


def test_more_layers_start_as_the_same_function(options: ParallelOptions) -> None:
    vocab = json.loads((options.draft / "config.json").read_text())["vocab_size"]
    plain = LlamaForCausalLM.from_pretrained(options.draft, dtype=torch.float32)
    deep = start_drafter(options.draft, vocab + 1, 3, scratch=False)
    ids = torch.tensor([[6, 7, 8, 9]])
    assert len(deep.model.layers) == 3
    with torch.inference_mode():
        torch.testing.assert_close(deep(ids).logits[..., :vocab], plain(ids).logits)
    with pytest.raises(ValueError, match="cannot drop any"):
        start_drafter(options.draft, vocab + 1, 0, scratch=False)


def test_distils_a_plain_draft(options: ParallelOptions, tmp_path: Path) -> None:
    plain = replace(options, out=tmp_path, depths=1, loss="kl", steps=3)
    report = train_parallel(plain)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "pard_token" not in config
    before, after = weights(plain.draft), weights(tmp_path)
    assert {name: one.shape for name, one in before.items()} == {
        name: one.shape for name, one in after.items()
    }
    assert len(report.best.by_position) == DRAFTS


def test_rounds_by_position() -> None:
    matches = np.array([[1, 1], [0, 0], [1, 0], [1, 0], [0, 1], [1, 1]], dtype=bool)
    total = position_acceptance.simulate([matches])
    # rounds start at 0 (both taken, 3 tokens), 3 (one taken, 2 tokens), 5 (one offered, taken)
    assert (total.tokens, total.rounds) == (6, 3)
    assert total.offered == (3, 2)
    assert total.accepted == (3, 1)
    assert total.mean_length == 2.0
    agreed = [True, True, False, True, True, True, False, True]
    chain = np.array([[*agreed[at : at + 3], False, False, False][:3] for at in range(8)])
    assert position_acceptance.simulate([chain]).rounds == count_rounds(agreed, 3)


def test_measured_acceptance_is_that_of_single_rounds(options: ParallelOptions) -> None:
    model = start_drafter(options.draft, 1 + _vocab(options), None, scratch=False)
    model.config.pard_token = _vocab(options)
    target = LlamaForCausalLM.from_pretrained(options.target)
    path = Example(np.array([7, 8, 9, 10, 11, 12, 13, 14], dtype=np.int32), 2)
    matches = position_acceptance.path_matches(MaskTrainee(model, 3), target, path, 3)
    assert matches.shape == (5, 3)
    for at in range(5):
        drafts = depth_logits(model, path.ids[: at + 3].tolist(), 3).argmax(-1).numpy()
        rest = path.ids[at + 3 : at + 6]
        assert np.array_equal(matches[at, : len(rest)], drafts[: len(rest)] == rest)


def _vocab(options: ParallelOptions) -> int:
    size: int = json.loads((options.target / "config.json").read_text())["vocab_size"]
    return size


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"loss": "mse"}, "unknown loss 'mse'; there are kl, ce"),
        ({"precision": "fp8"}, "unknown precision"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"depth_decay": 0.0}, "depth_decay must be in"),
        ({"learning_rate": -1.0}, "learning rate must be positive"),
        ({"max_length": 1}, "max_length must be at least 2"),
    ],
)
def test_bad_options(options: ParallelOptions, change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(options, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "rows.jsonl:1: this line is not JSON"),
        ('{"prompt": "a"}\n', 'rows.jsonl:1: a row needs "prompt" and "response"'),
        ('{"prompt": "a", "token_ids": [1, 9999]}\n' * 3, "token 9999, and the target only"),
        ("", "no row of"),
    ],
)
def test_bad_data(options: ParallelOptions, tmp_path: Path, content: str, text: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(content)
    with pytest.raises(ValueError, match=text):
        train_parallel(replace(options, out=tmp_path / "out", data=(rows,)))


def test_bad_models(options: ParallelOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        train_parallel(replace(options, out=out, draft=tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="must be of the Llama family"):
        train_parallel(replace(options, out=out, draft=other))
    shutil.copytree(options.draft, other, dirs_exist_ok=True)
    folders.write_tokenizer(folders.train_tokenizer(["completely different pieces " * 9]), other)
    with pytest.raises(BuildError, match="the draft has another tokenizer"):
        train_parallel(replace(options, out=out, draft=other))

"""Training scores of parallel drafters are those of the engines built from their folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import write_mask_drafter
from reference.tiny_llama import Head, TinyLlama, write_tiny_llama
from specrt import LLM, _core
from specrt.build import build
from specrt.train import group_mask, mask_drafter
from specrt.train.data import Example
from specrt.train.drafter_layers import layer_config
from specrt.train.eagle_drafter import EagleConfig, EagleDrafter
from specrt.train.eagle_folder import read_eagle, write_eagle
from specrt.train.group_batches import make_group_batch
from specrt.train.parallel import load_target
from specrt.train.parallel_eagle import EagleTrainee
from transformers import LlamaForCausalLM

DEPTHS = 8
TOKENS = 20
FIRST = 4  # the first anchor


def trained_scores(model: LlamaForCausalLM, tokens: list[int]) -> dict[int, np.ndarray]:
    """Scores (DEPTHS, vocab) of every anchor that has all depths, in one training forward."""
    groups = group_mask.make_groups(
        len(tokens), FIRST, DEPTHS, group_mask.KEEP_ALL, np.random.default_rng(0)
    )
    anchors, depths = group_mask.pad_groups([groups])
    mask = mask_drafter.mask_token(model.config)
    assert mask is not None
    model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        scores = mask_drafter.MaskDrafter(model)(
            group_mask.input_ids(torch.tensor([tokens]), anchors, depths, mask),
            group_mask.position_ids(anchors, depths),
            group_mask.dense_mask(anchors, depths),
            torch.arange(anchors.numel()),
        ).numpy()
    whole = range(FIRST, len(tokens) - DEPTHS + 1)
    return {anchor: scores[groups.anchors == anchor] for anchor in whole}


@pytest.mark.parametrize("head", [Head.TIED, Head.UNTIED])
def test_training_scores_are_the_engine_s_at_all_depths(head: Head, tmp_path: Path) -> None:
    shape = TinyLlama(context=96, layers=2, head=head, seed=5)
    target = write_tiny_llama(tmp_path / "target", shape)
    random = write_mask_drafter(target, tmp_path / "random")
    model = LlamaForCausalLM.from_pretrained(random, dtype=torch.float32)
    folder = tmp_path / "drafter"
    folder.mkdir()
    mask_drafter.export_drafter(model, DEPTHS, target, folder)
    bundle = build(
        target, draft=folder, out=tmp_path / "bundle", dtype="f32", progress=False, tune=False
    )
    core = LLM(bundle, "parallel", DEPTHS, threads=2).core

    tokens = np.random.default_rng(1).integers(0, shape.vocab, TOKENS).tolist()
    exported = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)  # bf16 weights
    expected = trained_scores(exported, tokens)
    assert len(expected) == TOKENS - DEPTHS - FIRST + 1
    for anchor, scores in expected.items():
        assert scores.shape == (DEPTHS, shape.vocab + 1)
        fed = [*tokens[: anchor + 1], *[shape.vocab] * (DEPTHS - 1)]
        actual = core.logits(_core.EngineRole.drafter, fed, rows=5)[-DEPTHS:]
        error = np.abs(actual - scores).max(axis=1)  # by depth
        assert (error < 1e-4 * np.ptp(scores)).all(), f"anchor {anchor}: {error}"


def test_p_eagle_scores_are_the_engine_s_at_all_depths(tmp_path: Path) -> None:
    shape = TinyLlama(context=96, layers=4, seed=6)
    folder = write_tiny_llama(tmp_path / "target", shape)
    target, mask = load_target(folder), shape.vocab - 1
    config = EagleConfig(layer_config(target.config, 2), (0, 2, 3), mask)
    torch.manual_seed(0)
    random = EagleDrafter(config)
    with torch.no_grad():
        for one in random.parameters():
            one.normal_(std=0.2)
    (tmp_path / "drafter").mkdir()
    write_eagle(random, DEPTHS, folder, tmp_path / "drafter")
    bundle = build(
        folder,
        draft=tmp_path / "drafter",
        out=tmp_path / "bundle",
        dtype="f32",
        progress=False,
        tune=False,
    )
    core = LLM(bundle, "parallel-eagle", DEPTHS, threads=2).core

    tokens = np.random.default_rng(1).integers(0, mask, TOKENS).astype(np.int32)
    trainee = EagleTrainee(read_eagle(tmp_path / "drafter", target), DEPTHS)
    some = make_group_batch(
        [Example(tokens, FIRST + 1)],
        DEPTHS,
        group_mask.KEEP_ALL,
        np.random.default_rng(0),
        begin=1,
    )
    batch = replace(some, rows=torch.arange(some.anchors.numel()))
    with torch.inference_mode():
        view = trainee.view(target, batch, teach=False)
        seen = group_mask.dense_mask(batch.anchors, batch.depths)
        scores = trainee.scores(trainee.module, batch, seen, view).numpy()
    for anchor in range(FIRST, TOKENS - DEPTHS):
        wanted = scores[batch.anchors[0].numpy() == anchor]
        assert wanted.shape == (DEPTHS, shape.vocab)
        fed = [*tokens[: anchor + 1].tolist(), *[mask] * (DEPTHS - 1)]
        actual = core.logits(_core.EngineRole.drafter, fed, rows=5)[-DEPTHS:]
        error = np.abs(actual - wanted).max(axis=1)  # by depth
        assert (error < 1e-4 * np.ptp(wanted)).all(), f"anchor {anchor}: {error}"

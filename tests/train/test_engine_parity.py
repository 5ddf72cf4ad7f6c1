"""Training scores of a parallel drafter are those of the engine that is built from its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import write_mask_drafter
from reference.tiny_llama import Head, TinyLlama, write_tiny_llama
from specrt import LLM, _core
from specrt.build import build
from specrt.train import group_mask, mask_drafter
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

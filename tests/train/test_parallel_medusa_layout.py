"""Parallel Medusa in the group-wise layout: parity with single rounds, and what sees what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from feature_cases import SHAPE, batch_of, group_of, group_scores, make_target, random_text, vary
from specrt.train.parallel_medusa import ParallelMedusaTrainee
from specrt.train.parallel_medusa_drafter import ParallelMedusaDrafter, round_scores
from transformers import LlamaConfig, LlamaForCausalLM

DEPTHS = 4


@pytest.fixture(scope="module")
def target() -> LlamaForCausalLM:
    return make_target()


def trainee(target: LlamaForCausalLM, layers: int = 2) -> ParallelMedusaTrainee:
    torch.manual_seed(1)
    drafter = ParallelMedusaDrafter(LlamaConfig(**SHAPE, num_hidden_layers=layers))
    vary(drafter)
    return ParallelMedusaTrainee(drafter, DEPTHS, target)


@pytest.mark.parametrize("layers", [1, 2])
def test_training_scores_are_those_of_one_round_each(layers: int, target: LlamaForCausalLM) -> None:
    one, text = trainee(target, layers), random_text(13)
    batch = batch_of(text, depths=DEPTHS)
    scores = group_scores(one, target, batch)
    assert batch.anchors.min() == 1  # nothing led to the first token
    for anchor in range(2, 12 - DEPTHS + 1):
        expected = round_scores(one.module, target, text[: anchor + 1], DEPTHS)
        torch.testing.assert_close(scores[group_of(batch, anchor)], expected, atol=1e-4, rtol=1e-4)


def test_depth_zero_does_not_depend_on_masks(target: LlamaForCausalLM) -> None:
    one, text = trainee(target), random_text(13)
    batch = batch_of(text, depths=DEPTHS)
    first = batch.depths[0] == 0
    scores = group_scores(one, target, batch)
    for anchor in range(1, 12):
        alone = round_scores(one.module, target, text[: anchor + 1], 1)
        torch.testing.assert_close(scores[first][anchor - 1], alone[0], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        one.module.mask_hidden.neg_()
    changed = group_scores(one, target, batch)
    torch.testing.assert_close(scores[first], changed[first])
    assert (scores[~first] - changed[~first]).abs().max() > 0.1


def test_groups_do_not_see_each_other(target: LlamaForCausalLM) -> None:
    one, batch = trainee(target), batch_of(random_text(13), depths=DEPTHS)
    kept = (batch.depths == 0) | (batch.anchors != 5)
    without = replace(batch, anchors=batch.anchors[kept][None], depths=batch.depths[kept][None])
    before, after = group_scores(one, target, batch), group_scores(one, target, without)
    torch.testing.assert_close(before[kept[0]], after, atol=1e-4, rtol=1e-4)


def test_tokens_are_not_read(target: LlamaForCausalLM) -> None:
    """The last token of a round stands behind the state that chose it, which says nothing of it."""
    one, text = trainee(target), random_text(9)
    other = [*text[:-1], (text[-1] + 1) % SHAPE["vocab_size"]]
    assert torch.equal(
        round_scores(one.module, target, text, DEPTHS),
        round_scores(one.module, target, other, DEPTHS),
    )

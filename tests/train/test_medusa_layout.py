"""Medusa heads in training: parity with single rounds, and their start."""

from __future__ import annotations

import pytest
import torch
from feature_cases import batch_of, group_of, group_scores, make_target, random_text, vary
from specrt.train.drafter_layers import target_ends
from specrt.train.medusa import MedusaTrainee
from specrt.train.medusa_heads import MedusaConfig, MedusaHeads, round_scores
from transformers import LlamaForCausalLM

HEADS, WIDTH, VOCAB = 3, 32, 64


@pytest.fixture(scope="module")
def target() -> LlamaForCausalLM:
    return make_target()


def heads(layers: int) -> MedusaHeads:
    torch.manual_seed(1)
    made = MedusaHeads(MedusaConfig(HEADS, layers, WIDTH, VOCAB))
    with torch.no_grad():
        for one in made.blocks.parameters():
            one.normal_(std=0.3)
    return vary(made)


@pytest.mark.parametrize("layers", [1, 2])
def test_training_scores_are_those_of_one_round_each(layers: int, target: LlamaForCausalLM) -> None:
    one, text = MedusaTrainee(heads(layers)), random_text(13)
    batch = batch_of(text, depths=HEADS)
    scores = group_scores(one, target, batch)
    assert batch.anchors.min() == 1  # nothing led to the first token
    for anchor in range(2, 12 - HEADS + 1):
        expected = round_scores(one.module, target, text[: anchor + 1], HEADS)
        torch.testing.assert_close(scores[group_of(batch, anchor)], expected, atol=1e-4, rtol=1e-4)


def test_heads_compute_what_the_paper_says(target: LlamaForCausalLM) -> None:
    made, text = heads(1), random_text(9)
    with torch.no_grad():
        x = target.model(torch.tensor([text[:-1]])).last_hidden_state[0, -1]
        linear = made.blocks[1][0].linear
        y = x + torch.nn.functional.silu(linear.weight @ x + linear.bias)
        expected = made.lm_heads[1].weight @ y
    torch.testing.assert_close(round_scores(made, target, text, HEADS)[1], expected)


def test_a_head_does_not_depend_on_the_others(target: LlamaForCausalLM) -> None:
    one, batch = MedusaTrainee(heads(1)), batch_of(random_text(13), depths=HEADS)
    before = group_scores(one, target, batch)
    with torch.no_grad():
        one.module.lm_heads[1].weight.neg_()
    after = group_scores(one, target, batch)
    others = batch.depths[0] != 1
    assert torch.equal(before[others], after[others])
    torch.testing.assert_close(before[~others], -after[~others])


def test_new_heads_score_as_the_target(target: LlamaForCausalLM) -> None:
    made = MedusaHeads(MedusaConfig(HEADS, 2, WIDTH, VOCAB))
    made.start_from(target_ends(target)["lm_head.weight"])
    text = random_text(9)
    with torch.no_grad():
        expected = target(torch.tensor([text[:-1]])).logits[0, -1]
    for scores in round_scores(made, target, text, HEADS):
        torch.testing.assert_close(scores, expected)

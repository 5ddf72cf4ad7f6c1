"""EAGLE-1: its layer, and the layout in which its own estimates are measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_cases import (
    SHAPE,
    START,
    batch_of,
    group_of,
    group_scores,
    make_target,
    random_text,
    vary,
)
from specrt.train.data import Example
from specrt.train.eagle1 import NOISE, Eagle1Trainee, with_noise
from specrt.train.eagle1_drafter import Eagle1Drafter, round_scores
from specrt.train.position_acceptance import path_matches
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

DEPTHS = 4


@pytest.fixture(scope="module")
def target() -> LlamaForCausalLM:
    return make_target()


@pytest.fixture
def trainee(target: LlamaForCausalLM) -> Eagle1Trainee:
    torch.manual_seed(1)
    drafter = Eagle1Drafter(LlamaConfig(**SHAPE, num_hidden_layers=1))
    return Eagle1Trainee(vary(drafter), target, feature_weight=2.0, score_weight=0.5)


def test_scores_are_those_of_one_round_each(
    trainee: Eagle1Trainee, target: LlamaForCausalLM
) -> None:
    """Element (a, d) is draft d behind a, as long as the text goes on with the drafts."""
    for anchor in (2, 3, 6):
        text = random_text(13)
        expected = round_scores(trainee.module, target, text[: anchor + 1], DEPTHS)
        text[anchor + 1 : anchor + DEPTHS] = expected.argmax(-1).tolist()[:-1]
        batch = batch_of(text, depths=DEPTHS)
        scores = group_scores(trainee, target, batch)[group_of(batch, anchor)]
        torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-3)


def test_training_scores_are_those_of_first_drafts(
    trainee: Eagle1Trainee, target: LlamaForCausalLM
) -> None:
    text = random_text(13)
    scores = group_scores(trainee, target, batch_of(text, depths=1))
    deeper = batch_of(text, depths=DEPTHS)
    first = deeper.depths[0] == 0
    torch.testing.assert_close(
        scores, group_scores(trainee, target, deeper)[first], atol=1e-3, rtol=1e-3
    )
    for anchor in range(1, 12):
        alone = round_scores(trainee.module, target, text[: anchor + 1], 1)
        torch.testing.assert_close(scores[anchor - 1], alone[0], atol=1e-3, rtol=1e-3)


def test_the_layer_has_no_norm_in_front(trainee: Eagle1Trainee) -> None:
    names = set(trainee.module.state_dict())
    attention = {f"layers.0.self_attn.{name}_proj.weight" for name in "qkvo"}
    mlp = {f"layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    assert names == attention | mlp | {
        "embed_tokens.weight",
        "fc.weight",
        "fc.bias",
        "layers.0.post_attention_layernorm.weight",
    }
    layer, x = trainee.module.layers[0], torch.randn(1, 1, 32)
    one = torch.ones(1, 1, 8), torch.zeros(1, 1, 8)
    with torch.no_grad():
        v = layer.self_attn.v_proj(x).view(1, 1, 2, 8).repeat_interleave(2, dim=2).flatten(2)
        y = x + layer.self_attn.o_proj(v)  # one row attends to itself
        expected = y + layer.mlp(layer.post_attention_layernorm(y))
        found = layer(x, attention_mask=None, position_embeddings=one)
    torch.testing.assert_close(found, expected)


def test_acceptance_counts_drafts_behind_drafts(
    trainee: Eagle1Trainee, target: LlamaForCausalLM
) -> None:
    """A text that goes on with the drafts is accepted as far as they reach."""
    text = random_text(START)
    drafts = round_scores(trainee.module, target, [*text, 7], 5).argmax(-1).tolist()
    path = Example(np.asarray([*text, 7, *drafts], dtype=np.int32), START)
    matches = path_matches(trainee, target, path, trainee.drafts)
    assert matches.shape == (5, 8)
    assert matches[0].tolist() == [True] * 5 + [False] * 3
    path.ids[-2] = (path.ids[-2] + 1) % SHAPE["vocab_size"]
    assert path_matches(trainee, target, path, trainee.drafts)[0, :4].tolist() == [True] * 3 + [
        False
    ]


def test_losses_are_of_estimates_and_scores(
    trainee: Eagle1Trainee, target: LlamaForCausalLM
) -> None:
    text = random_text(9)
    batch = batch_of(text, depths=1)
    view = trainee.view(target, batch, teach=False)
    states = trainee.states(view)
    seen = trainee.seen(batch, "sdpa")
    with torch.no_grad():
        found = trainee.losses(trainee.module, batch, seen, view)
        noisy = with_noise(states, batch.noise_seed)
        estimates = trainee.module(batch.ids[:, 1:], noisy[:, :-1], torch.arange(1, 8)[None], seen)[
            0
        ]
    learned = slice(START - 2, None)  # the answer's first token is the label of START - 1
    features = F.smooth_l1_loss(estimates, states[0, 1:], reduction="none").mean(-1)
    scores = F.cross_entropy(
        estimates @ target.lm_head.weight.T, torch.tensor(text[2:]), reduction="none"
    )
    torch.testing.assert_close(found, (2.0 * features + 0.5 * scores)[learned])


def test_noise_follows_from_its_seed() -> None:
    states = torch.randn(2, 300, 16, generator=torch.Generator().manual_seed(0)) * 5.0
    noisy = with_noise(states, 3)
    assert torch.equal(noisy, with_noise(states, 3))
    assert not torch.equal(noisy, with_noise(states, 4))
    parts = (noisy - states) / states.square().mean(-1, keepdim=True).sqrt()
    assert 0.95 * NOISE < parts.abs().max() <= NOISE * 1.001
    assert parts.mean().abs() < 0.03 * NOISE

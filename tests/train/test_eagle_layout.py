"""P-EAGLE in the group-wise layout: parity with single rounds, and what sees what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from specrt.train.data import Example
from specrt.train.eagle_drafter import EagleConfig, EagleDrafter, round_scores
from specrt.train.generate import Scored
from specrt.train.group_batches import GroupBatch, make_group_batch
from specrt.train.group_mask import KEEP_ALL, Cod, dense_mask
from specrt.train.parallel_eagle import EagleTrainee
from specrt.train.trainee import top_tokens
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB, MASK, DEPTHS, START = 64, 63, 4, 3
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,  # decided scores, so that a wrong mask shows
}
CONFIG = EagleConfig(LlamaConfig(**SHAPE, num_hidden_layers=2), (0, 1, 3), MASK)


@pytest.fixture(scope="module")
def target() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=4)).eval()


def trainee(config: EagleConfig = CONFIG) -> EagleTrainee:
    torch.manual_seed(1)
    drafter = EagleDrafter(config).eval()
    with torch.no_grad():
        for name, one in drafter.named_parameters():
            if "norm" in name:
                one.uniform_(0.5, 1.5)
    return EagleTrainee(drafter, DEPTHS)


def batch_of(*lengths: int, cod: Cod = KEEP_ALL) -> GroupBatch:
    random = np.random.default_rng(1)
    examples = [Example(random.integers(0, MASK, n).astype(np.int32), START) for n in lengths]
    return make_group_batch(examples, DEPTHS, cod, np.random.default_rng(0), begin=1)


@torch.inference_mode()
def all_scores(one: EagleTrainee, target: LlamaForCausalLM, batch: GroupBatch) -> Tensor:
    """Scores (s, v) of every element."""
    everything = replace(batch, rows=torch.arange(batch.anchors.numel()))
    view = one.view(target, batch, teach=False)
    return one.scores(one.module, everything, dense_mask(batch.anchors, batch.depths), view)


@pytest.mark.parametrize("flags", [(), ("norm_before_residual", "norm_before_fc"), ("fc_norm",)])
def test_training_scores_are_those_of_one_round_each(
    flags: tuple[str, ...], target: LlamaForCausalLM
) -> None:
    one, batch = trainee(replace(CONFIG, **dict.fromkeys(flags, True))), batch_of(13)
    scores = all_scores(one, target, batch)
    tokens = batch.ids[0].tolist()
    anchors = batch.anchors[0]
    assert anchors.min() == 1  # nothing led to the first token
    for anchor in range(START - 1, 12 - DEPTHS + 1):
        group = torch.nonzero(anchors == anchor)[:, 0]
        assert batch.depths[0, group].tolist() == list(range(DEPTHS))
        expected = round_scores(one.module, target, tokens[: anchor + 1], DEPTHS)
        torch.testing.assert_close(scores[group], expected, atol=1e-4, rtol=1e-4)


def test_depth_zero_does_not_depend_on_masks(target: LlamaForCausalLM) -> None:
    one, batch = trainee(), batch_of(13)
    scores = all_scores(one, target, batch)[batch.depths[0] == 0]
    for anchor in range(1, 12):
        alone = round_scores(one.module, target, batch.ids[0, : anchor + 1].tolist(), 1)
        torch.testing.assert_close(scores[anchor - 1], alone[0], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        one.module.mask_hidden.neg_()
    torch.testing.assert_close(scores, all_scores(one, target, batch)[batch.depths[0] == 0])


def test_groups_do_not_see_each_other(target: LlamaForCausalLM) -> None:
    one, batch = trainee(), batch_of(13)
    before = all_scores(one, target, batch)
    kept = batch.anchors[0] != 5
    without = replace(batch, anchors=batch.anchors[:, kept], depths=batch.depths[:, kept])
    keyed = (batch.depths == 0) | (batch.anchors != 5)  # depth 0 is what others may see
    masks_gone = replace(
        batch, anchors=batch.anchors[keyed][None], depths=batch.depths[keyed][None]
    )
    after = all_scores(one, target, masks_gone)
    torch.testing.assert_close(before[keyed[0]], after, atol=1e-4, rtol=1e-4)
    early = without.anchors[0] < 5
    torch.testing.assert_close(
        before[kept][early], all_scores(one, target, without)[early], atol=1e-4, rtol=1e-4
    )
    late = without.anchors[0] > 5
    assert (before[kept][late] - all_scores(one, target, without)[late]).abs().max() > 0.1


def test_padding_and_dropping_change_nothing(target: LlamaForCausalLM) -> None:
    one, both = trainee(), batch_of(9, 14, cod=Cod(0.7, 0.2))
    scores = all_scores(one, target, both)[both.rows]
    assert torch.isfinite(scores).all()
    whole = all_scores(one, target, batch_of(9))
    alone = batch_of(9)
    place = {
        (a, d): at
        for at, (a, d) in enumerate(
            zip(alone.anchors[0].tolist(), alone.depths[0].tolist(), strict=True)
        )
    }
    size = both.anchors.shape[1]
    for score, row in zip(scores, both.rows.tolist(), strict=True):
        if row < size:
            at = place[int(both.anchors[0, row]), int(both.depths[0, row])]
            torch.testing.assert_close(score, whole[at], atol=1e-4, rtol=1e-4)


def test_the_teacher_speaks_about_each_label(target: LlamaForCausalLM) -> None:
    batch = batch_of(13)
    view = trainee().view(target, batch, teach=True)
    assert view.top is not None
    best = target(batch.ids).logits[0].argmax(-1)
    positions = (batch.anchors + batch.depths)[0, batch.rows]
    assert torch.equal(view.top[0][batch.table_row][:, 0], best[positions])


def test_stored_scores_stand_at_the_same_labels(target: LlamaForCausalLM) -> None:
    """A prompt of one token: its answer's first token is the label of position 0, not read."""
    ids = np.random.default_rng(1).integers(0, MASK, 9).astype(np.int32)
    with torch.inference_mode():
        best = target(torch.from_numpy(ids.astype(np.int64))[None, :-1]).logits[0].log_softmax(-1)
    top = best.topk(16)
    row = Scored(
        Example(ids, 1),
        top.indices.numpy().astype(np.uint16),
        top.values.numpy().astype(np.float16),
    )
    batch = make_group_batch([row], DEPTHS, KEEP_ALL, np.random.default_rng(0), begin=1)
    assert batch.top is not None
    expected = top_tokens(target(batch.ids).logits, batch)
    assert torch.equal(batch.top[0], expected[0])

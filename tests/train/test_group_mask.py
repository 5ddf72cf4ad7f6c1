"""The group-wise layout: what sees what, what is dropped, and parity with single rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from specrt.train import group_batches, group_mask, mask_drafter
from specrt.train.data import Example
from specrt.train.group_mask import KEEP_ALL, Cod
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB, MASK, DEPTHS = 65, 64, 4


def tiny() -> mask_drafter.MaskDrafter:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,  # decided scores, so that a wrong mask shows
        tie_word_embeddings=True,
    )
    config.pard_token = MASK
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("sdpa")
    return mask_drafter.MaskDrafter(model).eval()


def sequence(length: int) -> list[int]:
    return np.random.default_rng(1).integers(0, MASK, length).tolist()


@torch.inference_mode()
def all_scores(
    drafter: mask_drafter.MaskDrafter, tokens: list[int], groups: group_mask.Groups
) -> Tensor:
    """Scores (s, v) of every element, the inputs changed by hand where a test wants it."""
    anchors, depths = group_mask.pad_groups([groups])
    ids = group_mask.input_ids(torch.tensor([tokens]), anchors, depths, MASK)
    return drafter(
        ids,
        group_mask.position_ids(anchors, depths),
        group_mask.dense_mask(anchors, depths),
        torch.arange(anchors.numel()),
    )


def test_training_scores_are_those_of_one_round_each() -> None:
    drafter, tokens = tiny(), sequence(12)
    groups = group_mask.make_groups(12, 3, DEPTHS, KEEP_ALL, np.random.default_rng(0))
    scores = all_scores(drafter, tokens, groups)
    for anchor in range(3, 12 - DEPTHS + 1):
        group = np.flatnonzero(groups.anchors == anchor)
        assert groups.depths[group].tolist() == list(range(DEPTHS))
        round_scores = mask_drafter.depth_logits(drafter.causal, tokens[: anchor + 1], DEPTHS)
        torch.testing.assert_close(scores[group], round_scores, atol=1e-4, rtol=1e-4)


def test_depth_zero_does_not_depend_on_masks() -> None:
    drafter, tokens = tiny(), sequence(12)
    random = np.random.default_rng(0)
    plain = drafter.causal(torch.tensor([tokens])).logits[0]
    scores = all_scores(drafter, tokens, group_mask.make_groups(12, 0, DEPTHS, KEEP_ALL, random))
    torch.testing.assert_close(scores[:12], plain, atol=1e-4, rtol=1e-4)


def test_groups_do_not_see_each_other() -> None:
    drafter, tokens = tiny(), sequence(10)
    groups = group_mask.make_groups(10, 0, DEPTHS, KEEP_ALL, np.random.default_rng(0))
    anchors, depths = group_mask.pad_groups([groups])
    ids = group_mask.input_ids(torch.tensor([tokens]), anchors, depths, MASK)
    other = ids.clone()
    changed = (anchors == 5) & (depths >= 1)
    other[changed] = 7
    with torch.inference_mode():
        before, after = (
            drafter(
                one,
                group_mask.position_ids(anchors, depths),
                group_mask.dense_mask(anchors, depths),
                torch.arange(ids.numel()),
            )
            for one in (ids, other)
        )
    torch.testing.assert_close(before[~changed[0]], after[~changed[0]], atol=1e-5, rtol=1e-5)
    assert (before[changed[0]] - after[changed[0]]).abs().max() > 0.1


def test_padding_changes_nothing() -> None:
    drafter = tiny()
    random = np.random.default_rng(0)
    examples = [Example(np.array(sequence(n), dtype=np.int32), 3) for n in (8, 14)]
    batch = group_batches.make_group_batch(examples, DEPTHS, KEEP_ALL, random)
    alone = group_batches.make_group_batch(examples[:1], DEPTHS, KEEP_ALL, random)

    def scores(one: group_batches.GroupBatch) -> Tensor:
        with torch.inference_mode():
            return drafter(
                group_mask.input_ids(one.ids, one.anchors, one.depths, MASK),
                group_mask.position_ids(one.anchors, one.depths),
                group_mask.dense_mask(one.anchors, one.depths),
                one.rows,
            )

    together = scores(batch)
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together[: len(alone.rows)], scores(alone), atol=1e-4, rtol=1e-4)


def test_flex_rule_is_the_dense_mask() -> None:
    from torch.nn.attention.flex_attention import create_mask

    random = np.random.default_rng(0)
    groups = [group_mask.make_groups(n, 2, DEPTHS, Cod(0.7, 0.2), random) for n in (9, 15)]
    anchors, depths = group_mask.pad_groups(groups)
    size = anchors.shape[1]
    rule = group_mask.mask_rule(anchors, depths)
    made = create_mask(rule, 2, None, size, size, device="cpu")
    assert torch.equal(made, group_mask.dense_mask(anchors, depths))


def test_cod_keeps_chains_and_counts() -> None:
    cod, inputs, first = Cod(0.7, 0.2), 400, 100
    groups = group_mask.make_groups(inputs, first, 8, cod, np.random.default_rng(0))
    assert np.array_equal(groups.anchors[groups.depths == 0], np.arange(inputs))
    below = set(range(first, inputs))
    for depth in range(1, 8):
        kept = groups.anchors[groups.depths == depth]
        assert len(kept) == round(300 * max(0.7**depth, 0.2)) or len(kept) >= len(below) - 1
        assert set(kept.tolist()) <= below
        assert kept.max() + depth < inputs
        below = set(kept.tolist())
    assert [cod.kept(300, depth) for depth in (1, 2, 7)] == [210, 147, 60]


def test_labels_are_shifted_before_anything_is_dropped() -> None:
    ids = np.arange(10, 40, dtype=np.int32)
    batch = group_batches.make_group_batch(
        [Example(ids, 20), Example(ids[:25], 22)], DEPTHS, Cod(0.5, 0.2), np.random.default_rng(0)
    )
    positions = (batch.anchors + batch.depths).flatten()[batch.rows]
    assert torch.equal(batch.labels, positions + 11)  # the token at r is 10 + r
    assert torch.equal(batch.depth_of, batch.depths.flatten()[batch.rows])
    starts = torch.where(batch.rows < batch.anchors.shape[1], 20, 22)
    assert (positions + 1 >= starts).all()
    said = batch.ids.flatten()[batch.table]  # where the teacher speaks about each label
    assert torch.equal(said[batch.table_row], batch.labels - 1)


@pytest.mark.parametrize(
    ("inputs", "first", "depths", "text"),
    [(5, 0, 0, "at least one depth"), (5, 5, 2, "not among 5 inputs")],
)
def test_bad_layouts(inputs: int, first: int, depths: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        group_mask.make_groups(inputs, first, depths, KEEP_ALL, np.random.default_rng(0))
    with pytest.raises(ValueError, match="ratio must be in"):
        Cod(1.5, 0.2)

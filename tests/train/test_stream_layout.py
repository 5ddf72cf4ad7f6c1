"""What streams see: the training layout against a dense mask and against single rounds."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from small_models import write_tiny
from specrt.train.data import Example
from specrt.train.group_batches import GroupBatch, make_group_batch
from specrt.train.group_mask import KEEP_ALL, Cod
from specrt.train.parallel import load_target
from specrt.train.position_acceptance import path_matches
from specrt.train.stream_adapter import (
    StreamAdapter,
    StreamConfig,
    main_path,
    merged_weights,
    stream_logits,
    with_weights,
)
from specrt.train.stream_attention import stream_attention
from specrt.train.streaming import StreamTrainee
from stream_cases import ROWS, SCALE, dense_attention, gradients, make_inputs
from torch import Tensor
from transformers import PreTrainedModel

STREAMS = 3


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return load_target(write_tiny(tmp_path_factory.mktemp("layout") / "target", 1, 32, 3))


def make_trainee(
    target: PreTrainedModel, positions: str = "shifted", *, shared: bool = False
) -> StreamTrainee:
    """Random everywhere, LoRA included."""
    torch.manual_seed(2)
    config = StreamConfig(STREAMS, 2, positions, 4, ("qkv", "o", "down"), shared)
    adapter = StreamAdapter(config, target)
    with torch.no_grad():
        for one in adapter.parameters():
            one.normal_(std=0.2)
    return StreamTrainee(adapter.eval(), target, bf16=False)


def make_batch(tokens: np.ndarray, start: int, cod: Cod = KEEP_ALL) -> GroupBatch:
    example = Example(tokens.astype(np.int32), start)
    return make_group_batch([example], 1 + STREAMS, cod, np.random.default_rng(0))


def scores_of(trainee: StreamTrainee, batch: GroupBatch) -> Tensor:
    with torch.inference_mode():
        view = trainee.view(trainee.target, batch, teach=False)
        return trainee.scores(trainee.module, batch, None, view)


def test_attention_is_that_of_a_dense_mask() -> None:
    inputs = make_inputs()
    ours = stream_attention(*inputs, ROWS, SCALE)
    dense = dense_attention(*inputs, ROWS)
    torch.testing.assert_close(ours, dense)
    for mine, wanted in zip(gradients(ours, inputs), gradients(dense, inputs), strict=True):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("positions", ["shifted", "same"])
def test_training_scores_are_those_of_single_rounds(
    target: PreTrainedModel, positions: str
) -> None:
    trainee = make_trainee(target, positions)
    tokens = np.arange(6, 20)
    batch = make_batch(tokens, 1, Cod(0.5, 0.5))
    scores = scores_of(trainee, batch)
    checked = 0
    for anchor in range(len(tokens) - STREAMS - 1):
        mine = scores[batch.anchors[0][batch.rows] == anchor]
        wanted = stream_logits(target, trainee.module, tokens[: anchor + 1].tolist())
        assert len(mine) in (1, 1 + STREAMS)  # with streams or without
        checked += len(mine) > 1
        torch.testing.assert_close(mine, wanted[: len(mine)], atol=1e-4, rtol=1e-4)
    assert checked >= 3


def test_streams_do_not_see_those_of_other_positions(target: PreTrainedModel) -> None:
    trainee = make_trainee(target)
    tokens = np.arange(6, 26)
    few, all_of_them = make_batch(tokens, 1, Cod(0.2, 0.2)), make_batch(tokens, 1)
    mine, wanted = scores_of(trainee, few), scores_of(trainee, all_of_them)
    places = {
        (anchor, depth): row
        for row, (anchor, depth) in enumerate(
            zip(
                all_of_them.anchors[0][all_of_them.rows].tolist(),
                all_of_them.depth_of.tolist(),
                strict=True,
            )
        )
    }
    for row, (anchor, depth) in enumerate(
        zip(few.anchors[0][few.rows].tolist(), few.depth_of.tolist(), strict=True)
    ):
        torch.testing.assert_close(mine[row], wanted[places[anchor, depth]])


def test_lossless_main_path_is_the_target_bit_for_bit(target: PreTrainedModel) -> None:
    trainee = make_trainee(target)
    ids = torch.arange(6, 20)[None]
    with torch.inference_mode():
        plain = target(ids).logits
        main = main_path(target, ids, trainee.module.first)
        assert torch.equal(target.lm_head(main.last), plain)
    batch = make_batch(np.arange(6, 21), 1)
    main_scores = scores_of(trainee, batch.only(batch.depth_of == 0))
    torch.testing.assert_close(main_scores, plain[0], atol=1e-5, rtol=1e-5)
    loss = scores_of(trainee, batch).sum()  # whatever is learned, the target has no gradient
    assert loss.isfinite()
    assert not any(one.requires_grad for one in target.parameters())


def test_shared_lora_is_that_of_merged_weights(target: PreTrainedModel) -> None:
    trainee = make_trainee(target, shared=True)
    batch = make_batch(np.arange(6, 16), 1)
    scores = scores_of(trainee, batch.only(batch.depth_of == 0))
    with torch.inference_mode():
        tuned = with_weights(
            target, merged_weights(target, trainee.module), lambda base: base(batch.ids).logits
        )
    torch.testing.assert_close(scores, tuned[0], atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        assert not torch.allclose(tuned, target(batch.ids).logits, atol=1e-2)


def test_early_exit_reads_the_state_before_the_streams(target: PreTrainedModel) -> None:
    trainee = make_trainee(target)
    adapter = trainee.module
    learned = trainee.learned(make_batch(np.arange(6, 16), 1))
    exits = learned.only(learned.depth_of < 0)
    assert len(exits.rows) == 9
    assert torch.equal(exits.labels, torch.arange(7, 16))
    assert not (learned.depth_of == 0).any()  # the main path is not trained
    with torch.inference_mode():
        states = target.model(exits.ids, output_hidden_states=True).hidden_states[adapter.first]
        n = target.model.norm(states[0])
        wanted = target.lm_head(n + n @ adapter.prune.lora_a.T @ adapter.prune.lora_b.T)
    torch.testing.assert_close(scores_of(trainee, exits), wanted, atol=1e-4, rtol=1e-4)


def test_measured_acceptance_is_that_of_single_rounds(target: PreTrainedModel) -> None:
    trainee = make_trainee(target)
    tokens = np.array([7, 8, 9, 10, 11, 12, 13, 14])
    path = Example(tokens.astype(np.int32), 2)
    matches = path_matches(trainee, target, path, STREAMS)
    assert matches.shape == (5, STREAMS)
    for at in range(5):
        # Token at + 2 came from the step whose streams draft what is behind it.
        scores = stream_logits(target, trainee.module, tokens[: at + 2].tolist())
        rest = tokens[at + 3 : at + 3 + STREAMS]
        drafts = scores[1:].argmax(-1).numpy()[: len(rest)]
        assert np.array_equal(matches[at, : len(rest)], drafts == rest)


def test_sequence_without_streams(target: PreTrainedModel) -> None:
    """A sequence of one input has no position with streams."""
    trainee = make_trainee(target)
    batch = trainee.learned(make_batch(np.array([6, 7]), 1))
    assert scores_of(trainee, batch).shape == (1, target.config.vocab_size)


@pytest.mark.parametrize("shared", [False, True])
def test_target_in_bf16(target: PreTrainedModel, shared: bool) -> None:
    """As it is on a GPU: adapters stay in float32."""
    batch = make_batch(np.arange(6, 16), 1)
    wanted = scores_of(make_trainee(target, shared=shared), batch)
    mine = scores_of(make_trainee(deepcopy(target).bfloat16(), shared=shared), batch)
    assert mine.dtype == torch.bfloat16
    assert (mine - wanted).abs().max() < 0.05 * wanted.abs().max()

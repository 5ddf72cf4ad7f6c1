"""What holds for all drafters that read the target's last states."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from feature_cases import SHAPE, batch_of, make_target, random_text, vary
from specrt.train import eagle1
from specrt.train.drafter_layers import read_output
from specrt.train.eagle1 import Eagle1Trainee
from specrt.train.eagle1_drafter import Eagle1Drafter
from specrt.train.feature_trainee import FeatureTrainee
from specrt.train.group_batches import GroupBatch
from specrt.train.medusa import MedusaTrainee
from specrt.train.medusa_heads import MedusaConfig, MedusaHeads
from specrt.train.parallel_medusa import ParallelMedusaTrainee
from specrt.train.parallel_medusa_drafter import ParallelMedusaDrafter
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

DEPTHS = 3


def medusa(target: LlamaForCausalLM) -> FeatureTrainee:
    return MedusaTrainee(vary(MedusaHeads(MedusaConfig(DEPTHS, 1, 32, 64))))


def parallel_medusa(target: LlamaForCausalLM) -> FeatureTrainee:
    drafter = ParallelMedusaDrafter(LlamaConfig(**SHAPE, num_hidden_layers=1))
    return ParallelMedusaTrainee(vary(drafter), DEPTHS, target)


def eagle(target: LlamaForCausalLM) -> FeatureTrainee:
    drafter = Eagle1Drafter(LlamaConfig(**SHAPE, num_hidden_layers=1))
    return Eagle1Trainee(vary(drafter), target, feature_weight=1.0, score_weight=1.0)


@torch.no_grad()
def losses(one: FeatureTrainee, target: LlamaForCausalLM, batch: GroupBatch) -> Tensor:
    view = one.view(target, batch, teach=True)
    return one.losses(one.module, batch, one.seen(batch, "sdpa"), view)


@pytest.mark.parametrize(
    ("make", "depths"), [(medusa, DEPTHS), (parallel_medusa, DEPTHS), (eagle, 1)]
)
def test_a_text_learns_the_same_beside_others(
    make: Callable[[LlamaForCausalLM], FeatureTrainee],
    depths: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eagle1, "NOISE", 0.0)  # it is not the same in another batch
    target = make_target()
    one = make(target)
    texts = [random_text(9), random_text(14)[::-1]]
    alone = [losses(one, target, batch_of(text, depths=depths)) for text in texts]
    together = losses(one, target, batch_of(*texts, depths=depths))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-3, rtol=1e-3)


def test_states_are_what_the_head_reads() -> None:
    target, ids = make_target(), torch.tensor([random_text(9)])
    scores, states = read_output(target, ids)
    with torch.no_grad():
        torch.testing.assert_close(scores, target(ids).logits)
        torch.testing.assert_close(scores, target.lm_head(states))

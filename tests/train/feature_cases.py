"""A tiny target, batches and scores, for drafters that read the target's last states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from specrt.train.data import Example
from specrt.train.feature_trainee import FeatureTrainee
from specrt.train.group_batches import GroupBatch, make_group_batch
from specrt.train.group_mask import KEEP_ALL
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB, START = 64, 3
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,  # decided scores, so that a wrong mask shows
}


def make_target() -> LlamaForCausalLM:
    """A random target whose norms do something."""
    torch.manual_seed(0)
    target = LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=3)).eval()
    return vary(target)


def vary(module: nn.Module) -> nn.Module:
    """The module with random gains and biases, which begin as ones and zeros."""
    with torch.no_grad():
        for name, one in module.named_parameters():
            if one.dim() == 1:
                one.uniform_(0.5, 1.5) if "norm" in name else one.uniform_(-0.5, 0.5)
    return module.eval()


def random_text(length: int) -> list[int]:
    """The same tokens each time."""
    return np.random.default_rng(1).integers(0, VOCAB, length).tolist()


def batch_of(*texts: list[int], depths: int) -> GroupBatch:
    """Texts with all anchors at all depths."""
    examples = [Example(np.asarray(text, dtype=np.int32), START) for text in texts]
    return make_group_batch(examples, depths, KEEP_ALL, np.random.default_rng(0), begin=1)


@torch.inference_mode()
def group_scores(trainee: FeatureTrainee, target: LlamaForCausalLM, batch: GroupBatch) -> Tensor:
    """Scores (s, v) of every element."""
    everything = replace(
        batch, rows=torch.arange(batch.anchors.numel()), depth_of=batch.depths.flatten()
    )
    view = trainee.view(target, everything, teach=False)
    seen = trainee.seen(everything, "sdpa")
    return trainee.scores(trainee.module, everything, seen, view)


def group_of(batch: GroupBatch, anchor: int) -> Tensor:
    """Elements of an anchor, in the order of depths."""
    found = torch.nonzero(batch.anchors[0] == anchor)[:, 0]
    assert batch.depths[0, found].tolist() == list(range(len(found)))
    return found

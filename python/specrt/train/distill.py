"""Distillation of the draft: its next-token distribution is pulled to the target's.

On the target's own answers the stored best tokens of the target are the teacher; on a share of
training text the target is run beside the draft. What greedy speculative decoding accepts is
agreement of the most likely token, so cross-entropy to that token is added to the KL divergence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from specrt.train.data import LENGTHS, Batch, Seed, bucket_length, make_batch
from specrt.train.generate import TOP, Scored
from specrt.train.llama import Llama

ARGMAX_WEIGHT = 0.5


@dataclass(frozen=True)
class ScoredBatch(Batch):
    """A batch with the target's best tokens (n, TOP) at its n learned positions."""

    top_ids: Tensor
    top_logp: Tensor


def scored_stream(answers: Sequence[Scored], tokens: int, seed: Seed) -> Iterator[ScoredBatch]:
    """Endless batches of `tokens` inputs from the target's answers, in shuffled passes."""
    random = np.random.default_rng(seed)
    filling: dict[int, list[Scored]] = {length: [] for length in LENGTHS}
    while True:
        for index in random.permutation(len(answers)):
            one = answers[index]
            length = bucket_length(len(one.example.ids) - 1)
            filling[length].append(one)
            if len(filling[length]) == tokens // length:
                some, filling[length] = filling[length], []
                batch = make_batch([each.example for each in some], length, 0.0, random)
                top_ids = np.concatenate([each.top_ids for each in some]).astype(np.int64)
                top_logp = np.concatenate([each.top_logp for each in some]).astype(np.float32)
                yield ScoredBatch(
                    batch.ids,
                    batch.targets,
                    batch.positions,
                    torch.from_numpy(top_ids),
                    torch.from_numpy(top_logp),
                )


def score_batch(target: Llama, batch: Batch) -> ScoredBatch:
    """Run the target over a batch of text and keep its best tokens."""
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = target(batch.ids).reshape(-1, target.shape.width)[batch.positions]
        logp, ids = target.logits(hidden).float().log_softmax(-1).topk(TOP)
    return ScoredBatch(batch.ids, batch.targets, batch.positions, ids.clone(), logp.clone())


def mixed_stream(
    answers: Iterator[ScoredBatch], text: Iterator[Batch], target: Llama, text_every: int
) -> Iterator[Batch]:
    """Yield answers, and as every `text_every`-th batch text that the target scores now."""
    while True:
        for _ in range(text_every - 1):
            yield next(answers)
        yield score_batch(target, next(text))


@torch.inference_mode()
def answer_agreement(draft: Llama, answers: Sequence[Scored]) -> dict[str, float]:
    """Share of the answers' tokens at which draft and target have the same most likely token."""
    agreed, count = 0, 0
    random = np.random.default_rng(0)
    ordered = sorted(answers, key=lambda one: len(one.example.ids))
    for begin in range(0, len(ordered), 16):
        some = ordered[begin : begin + 16]
        length = bucket_length(len(some[-1].example.ids) - 1)
        batch = make_batch([one.example for one in some], length, 0.0, random)
        best = np.concatenate([one.top_ids[:, 0] for one in some]).astype(np.int64)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = draft(batch.ids).reshape(-1, draft.shape.width)[batch.positions]
            agreed += int((draft.logits(hidden).argmax(-1) == torch.from_numpy(best)).sum())
        count += len(best)
    return {"agreement": agreed / count}


def teacher_loss(logq: Tensor, top_ids: Tensor, top_logp: Tensor) -> Tensor:
    """Loss (n) of log-probabilities logq (n, v) against a teacher's best tokens (n, k).

    KL divergence over the best tokens and the rest as one, and the argmax term.
    """
    picked = logq.gather(-1, top_ids)
    p = top_logp.exp()
    p_rest = (1.0 - p.sum(-1)).clamp_min(1e-4)
    q_rest = (1.0 - picked.exp().sum(-1)).clamp_min(1e-4)
    kl = (p * (top_logp - picked)).sum(-1) + p_rest * (p_rest.log() - q_rest.log())
    return kl + ARGMAX_WEIGHT * F.nll_loss(logq, top_ids[:, 0], reduction="none")


def distillation_loss(draft: Llama) -> Callable[[Tensor, Batch], Tensor]:
    """Mean of `teacher_loss` over the learned positions."""

    def loss(hidden: Tensor, batch: Batch) -> Tensor:
        if not isinstance(batch, ScoredBatch):
            raise TypeError("distillation needs batches that the target has scored")
        logq = draft.logits(hidden).float().log_softmax(-1)
        return teacher_loss(logq, batch.top_ids, batch.top_logp).mean()

    return loss

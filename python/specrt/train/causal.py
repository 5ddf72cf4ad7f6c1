"""Causal language-model training of the demo target, by the clock.

The backbone is compiled (a few static shapes); scores over the vocabulary are computed only where
a token is learned, which saves most of the memory traffic of short answers to long prompts.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from specrt.train.data import Batch, Example, bucket_length, make_batch
from specrt.train.llama import Llama
from specrt.train.schedule import (
    Clock,
    Optimizers,
    Progress,
    Schedule,
    load_checkpoint,
    save_checkpoint,
)

log = logging.getLogger(__name__)

BatchLoss = Callable[[Tensor, Batch], Tensor]


@dataclass(frozen=True)
class Objective:
    """What is minimised, and what is measured beside it.

    `loss` maps hidden states (n, d) of a batch's learned positions to a mean loss; `check` is
    logged with every checkpoint.
    """

    loss: BatchLoss
    check: Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class TrainOptions:
    """How a model is trained; `batches_per_step` batches make one update."""

    minutes: float
    schedule: Schedule
    matrix_lr: float
    other_lr: float
    batches_per_step: int
    checkpoint_s: float = 240.0


def fit(
    model: Llama,
    batches_after: Callable[[int], Iterator[Batch]],
    objective: Objective,
    options: TrainOptions,
    checkpoint: Path,
) -> Progress:
    """Train until the minutes are used, resuming from `checkpoint` if it exists.

    `batches_after` gives an endless stream for a run that has used so many batches already.
    """
    torch._dynamo.config.cache_size_limit = 64
    forward = torch.compile(model)
    opts = Optimizers(model, options.matrix_lr, options.other_lr)
    progress = load_checkpoint(checkpoint, model, opts)
    clock = Clock(options.minutes, progress.used_s)
    steps, tokens, saved_s = progress.steps, progress.tokens, progress.used_s
    batches = batches_after(steps * options.batches_per_step)
    smooth: float | None = None
    with tqdm(total=int(clock.budget_s), initial=int(clock.used_s()), unit="s") as bar:
        while clock.progress() < 1.0:
            total = 0.0
            for batch in itertools.islice(batches, options.batches_per_step):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    hidden = forward(batch.ids).reshape(-1, model.shape.width)
                    loss = objective.loss(hidden[batch.positions], batch)
                (loss / options.batches_per_step).backward()  # type: ignore[no-untyped-call]
                total += loss.item() / options.batches_per_step
                tokens += batch.ids.numel()
            factor = options.schedule.factor(clock.progress())
            norm = opts.step(factor)
            steps += 1
            smooth = total if smooth is None else 0.98 * smooth + 0.02 * total
            bar.n = int(clock.used_s())
            bar.set_postfix_str(f"step {steps} tokens {tokens / 1e6:.2f}M loss {smooth:.3f}")
            if steps % 20 == 0:
                rate = (tokens - progress.tokens) / (clock.used_s() - progress.used_s)
                log.info(
                    "step %d tokens %d loss %.4f norm %.2f lr factor %.3f tokens/s %.0f",
                    *(steps, tokens, smooth, norm, factor, rate),
                )
            if clock.used_s() - saved_s > options.checkpoint_s:
                saved_s = clock.used_s()
                save_checkpoint(checkpoint, model, opts, Progress(steps, tokens, saved_s))
                log.info(
                    "step %d: %s", steps, {k: round(v, 4) for k, v in objective.check().items()}
                )
    final = Progress(steps, tokens, clock.used_s())
    save_checkpoint(checkpoint, model, opts, final)
    return final


def next_token_loss(model: Llama) -> BatchLoss:
    """Cross-entropy of the next token over the learned positions."""

    def loss(hidden: Tensor, batch: Batch) -> Tensor:
        scores = model.logits(hidden).float()
        return F.cross_entropy(scores, batch.targets.reshape(-1)[batch.positions])

    return loss


@torch.inference_mode()
def answer_loss(model: Llama, tasks: Mapping[str, Sequence[Example]]) -> dict[str, float]:
    """Mean loss per answer token of each task's examples, in nats."""
    losses = {}
    random = np.random.default_rng(0)
    for task, examples in tasks.items():
        total, count = 0.0, 0
        ordered = sorted(examples, key=lambda one: len(one.ids))
        for begin in range(0, len(ordered), 16):
            some = ordered[begin : begin + 16]
            length = bucket_length(len(some[-1].ids) - 1)
            batch = make_batch(some, length, 0.0, random)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = model(batch.ids).reshape(-1, model.shape.width)[batch.positions]
                loss = next_token_loss(model)(hidden, batch)
            total += loss.item() * len(batch.positions)
            count += len(batch.positions)
        losses[task] = total / count
    return losses

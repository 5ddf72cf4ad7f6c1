"""Acceptance by position: how many of the tokens that a drafter proposes at once its target takes.

Greedy, on the target's own path, where the acceptance of every round follows exactly from which
drafts agree with the path: see `acceptance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from specrt.train.data import Example
from specrt.train.group_batches import make_group_batch
from specrt.train.group_mask import KEEP_ALL
from specrt.train.trainee import Trainee

Matches = NDArray[np.bool_]  # (n, depths): does draft d of the round that starts at token n agree


@dataclass(frozen=True)
class PositionAcceptance:
    """Sums over rounds. `offered` and `accepted` count drafts by their position in a round."""

    tokens: int
    rounds: int
    offered: tuple[int, ...]
    accepted: tuple[int, ...]

    @property
    def mean_length(self) -> float:
        """Tokens committed per target step, the target's own token included."""
        return self.tokens / self.rounds if self.rounds else 1.0

    @property
    def by_position(self) -> list[float]:
        """Share of the rounds in which the draft at each position was accepted."""
        pairs = zip(self.accepted, self.offered, strict=True)
        return [taken / offered if offered else 0.0 for taken, offered in pairs]


def simulate(paths: Sequence[Matches]) -> PositionAcceptance:
    """The rounds of draft-then-verify over answers whose drafts agree as `paths` say."""
    depths = paths[0].shape[1]
    offered, accepted = np.zeros(depths, dtype=int), np.zeros(depths, dtype=int)
    tokens = rounds = 0
    for matches in paths:
        at = 0
        while at < len(matches):
            round_of = matches[at, : len(matches) - at]
            taken = int(np.cumprod(round_of).sum())
            offered[: len(round_of)] += 1
            accepted[:taken] += 1
            at, rounds = at + taken + 1, rounds + 1
        tokens += len(matches)
    return PositionAcceptance(tokens, rounds, tuple(offered.tolist()), tuple(accepted.tolist()))


@torch.inference_mode()
def path_matches(trainee: Trainee, target: PreTrainedModel, path: Example, drafts: int) -> Matches:
    """Agreement of all drafts along one path (prompt and the target's greedy answer).

    The first token of the answer comes from the prompt's own step, so rounds start behind it. A
    draft model of one depth drafts one token after the other: as long as all agree, it does so on
    the path itself. What goes on with estimates of its own has a layout with all of its drafts.
    Where the target fills the first depth itself, the anchor is the token before.
    """
    inputs = len(path.ids) - 1
    if inputs <= path.start:
        return np.zeros((0, drafts), dtype=bool)
    random = np.random.default_rng(0)
    batch = make_group_batch([path], trainee.depths, KEEP_ALL, random, begin=trainee.begin)
    batch = batch.only(batch.depth_of >= trainee.own).to(target.device)
    seen = trainee.seen(batch, "sdpa")
    view = trainee.view(target, batch, teach=False)
    best = trainee.scores(trainee.module, batch, seen, view).argmax(-1)
    anchors = batch.anchors.flatten()[batch.rows] + trainee.own
    kept = anchors >= path.start
    agreed = (best == batch.labels)[kept].cpu().numpy()
    matches = np.zeros((inputs - path.start, drafts), dtype=bool)
    if trainee.depths > 1:
        places = (anchors[kept] - path.start).cpu().numpy()
        matches[places, (batch.depth_of[kept] - trainee.own).cpu().numpy()] = agreed
    else:
        for depth in range(drafts):
            matches[: len(agreed) - depth, depth] = agreed[depth:]
    return matches


def measure_positions(
    trainee: Trainee, target: PreTrainedModel, paths: Sequence[Example], drafts: int
) -> PositionAcceptance:
    """Acceptance of `drafts` greedy drafts a round on the target's greedy answers `paths`."""
    was_training = trainee.module.training
    trainee.module.eval()
    total = simulate([path_matches(trainee, target, path, drafts) for path in paths])
    trainee.module.train(was_training)
    return total

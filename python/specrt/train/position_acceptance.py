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

from specrt.train.data import Example
from specrt.train.group_mask import (
    KEEP_ALL,
    dense_mask,
    input_ids,
    make_groups,
    pad_groups,
    position_ids,
)
from specrt.train.mask_drafter import MaskDrafter, mask_token

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
def path_matches(drafter: MaskDrafter, path: Example, depths: int) -> Matches:
    """Agreement of all drafts along one path (prompt and the target's greedy answer).

    The first token of the answer comes from the prompt's own step, so rounds start behind it. A
    model without a mask token drafts one token after the other: as long as all agree, it does so
    on the path itself.
    """
    inputs = len(path.ids) - 1
    if inputs <= path.start:
        return np.zeros((0, depths), dtype=bool)
    mask = mask_token(drafter.causal.config)
    random = np.random.default_rng(0)
    groups = make_groups(inputs, path.start, 1 if mask is None else depths, KEEP_ALL, random)
    device = drafter.causal.device
    anchors, ids_depths = (one.to(device) for one in pad_groups([groups]))
    ids = torch.from_numpy(path.ids.astype(np.int64))[None].to(device)
    rows = torch.from_numpy(np.flatnonzero(groups.anchors >= path.start)).to(device)
    scores = drafter(
        input_ids(ids, anchors, ids_depths, mask or 0),
        position_ids(anchors, ids_depths),
        dense_mask(anchors, ids_depths),
        rows,
    )
    best = scores.argmax(-1).cpu().numpy()
    kept = groups.anchors >= path.start
    agreed = best == path.ids[groups.positions[kept] + 1]
    matches = np.zeros((inputs - path.start, depths), dtype=bool)
    if mask is not None:
        matches[groups.anchors[kept] - path.start, groups.depths[kept]] = agreed
    else:
        for depth in range(depths):
            matches[: len(agreed) - depth, depth] = agreed[depth:]
    return matches


def measure_positions(
    drafter: MaskDrafter, paths: Sequence[Example], depths: int
) -> PositionAcceptance:
    """Acceptance of `depths` greedy drafts a round on the target's greedy answers `paths`."""
    was_training = drafter.training
    drafter.eval()
    total = simulate([path_matches(drafter, path, depths) for path in paths])
    drafter.train(was_training)
    return total

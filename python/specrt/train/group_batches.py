"""Batches of grouped sequences: which examples go together, their elements, labels and teacher.

The order is a function of the seed and the number of the batch alone, so a run that is resumed
goes on with the batches that it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specrt.train.data import Seed
from specrt.train.generate import Scored
from specrt.train.group_mask import Cod, make_groups, pad_groups
from specrt.train.rows import Row, example_of

_POOL = 256  # examples that are sorted by length together, so that a batch is padded little


@dataclass(frozen=True)
class GroupBatch:
    """Sequences ids (b, t), elements (b, s), and n learned elements.

    The learned ones are flat `rows` (n) of the elements, with `labels` (n), `depth_of` (n) and the
    row of each in the table of m answer tokens. `table` (m) holds the flat positions of (b, t)
    at which the teacher speaks about them, `top` (m, k) what it said if the examples are scored.
    `noise_seed` is for what a drafter draws at random. `examples` (b) are numbers of the sequences
    in the training data, none for those from elsewhere.
    """

    ids: Tensor
    anchors: Tensor
    depths: Tensor
    rows: Tensor
    labels: Tensor
    depth_of: Tensor
    table_row: Tensor
    table: Tensor
    top: tuple[Tensor, Tensor] | None
    noise_seed: int
    examples: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        """Elements, padding included."""
        return self.anchors.numel()

    def only(self, kept: Tensor) -> GroupBatch:
        """The batch with those learned elements that `kept` (n) is true for."""
        return replace(
            self,
            rows=self.rows[kept],
            labels=self.labels[kept],
            depth_of=self.depth_of[kept],
            table_row=self.table_row[kept],
        )

    def and_learned(self, other: GroupBatch) -> GroupBatch:
        """The batch with the learned elements of `other`, which is of the same layout, too."""
        return replace(
            self,
            rows=torch.cat((self.rows, other.rows)),
            labels=torch.cat((self.labels, other.labels)),
            depth_of=torch.cat((self.depth_of, other.depth_of)),
            table_row=torch.cat((self.table_row, other.table_row)),
        )

    def to(self, device: torch.device) -> GroupBatch:
        """The batch on `device`."""
        return GroupBatch(
            ids=self.ids.to(device),
            anchors=self.anchors.to(device),
            depths=self.depths.to(device),
            rows=self.rows.to(device),
            labels=self.labels.to(device),
            depth_of=self.depth_of.to(device),
            table_row=self.table_row.to(device),
            table=self.table.to(device),
            top=None if self.top is None else (self.top[0].to(device), self.top[1].to(device)),
            noise_seed=self.noise_seed,
            examples=self.examples,
        )


def batch_plan(examples: Sequence[Row], tokens: int, seed: Seed) -> Iterator[list[int]]:
    """Endless lists of examples of at most `tokens` padded tokens, scored and unscored apart."""
    lengths = np.array([len(example_of(one).ids) for one in examples])
    scored = np.array([isinstance(one, Scored) for one in examples])
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(examples))
        batches: list[list[int]] = []
        for kind in (order[scored[order]], order[~scored[order]]):
            for begin in range(0, len(kind), _POOL):
                pool = kind[begin : begin + _POOL]
                batches += _fill(pool[np.argsort(lengths[pool], kind="stable")], lengths, tokens)
        for index in random.permutation(len(batches)):
            yield batches[index]


def _fill(ordered: NDArray[np.int64], lengths: NDArray[np.int64], tokens: int) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    for index in ordered.tolist():
        if batches[-1] and (len(batches[-1]) + 1) * lengths[index] > tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def make_group_batch(
    rows: Sequence[Row],
    depths: int,
    cod: Cod,
    random: np.random.Generator,
    *,
    begin: int = 0,
) -> GroupBatch:
    """Elements of examples that are all scored or all not; every answer token is learned.

    Labels are taken at the position behind each element's before anything is dropped or padded.
    Elements begin at position `begin`, which must be an input of every example.
    """
    examples = [example_of(one) for one in rows]
    firsts = [max(one.start - 1, begin) for one in examples]
    inputs = [len(one.ids) - 1 for one in examples]
    groups = [
        make_groups(length, first, depths, cod, random, begin=begin)
        for length, first in zip(inputs, firsts, strict=True)
    ]
    anchors, element_depths = pad_groups(groups)
    ids = np.zeros((len(rows), max(inputs)), dtype=np.int64)
    learned, labels, depth_of, table_row, table = [], [], [], [], []
    said = 0
    for row, (one, first, group) in enumerate(zip(examples, firsts, groups, strict=True)):
        ids[row, : inputs[row]] = one.ids[:-1]
        kept = np.flatnonzero(group.positions >= first)
        positions = group.positions[kept]
        learned.append(row * anchors.shape[1] + kept)
        labels.append(one.ids[positions + 1].astype(np.int64))
        depth_of.append(group.depths[kept])
        table_row.append(said + positions - first)
        table.append(row * ids.shape[1] + np.arange(first, inputs[row]))
        said += inputs[row] - first
    return GroupBatch(
        ids=torch.from_numpy(ids),
        anchors=anchors,
        depths=element_depths,
        rows=_joined(learned),
        labels=_joined(labels),
        depth_of=_joined(depth_of),
        table_row=_joined(table_row),
        table=_joined(table),
        top=_scores(rows, [length - first for length, first in zip(inputs, firsts, strict=True)]),
        noise_seed=int(random.integers(1 << 62)),
    )


def _joined(parts: Sequence[NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def _scores(rows: Sequence[Row], counts: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """Scores of the last `counts` tokens of each row; None for rows without."""
    pairs = zip(rows, counts, strict=True)
    scored = [(one, count) for one, count in pairs if isinstance(one, Scored)]
    if not scored:
        return None
    ids = np.concatenate([one.top_ids[-count:] for one, count in scored]).astype(np.int64)
    logp = np.concatenate([one.top_logp[-count:] for one, count in scored]).astype(np.float32)
    return torch.from_numpy(ids), torch.from_numpy(logp)

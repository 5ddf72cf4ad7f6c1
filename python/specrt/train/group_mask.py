"""The group-wise layout by which all depths of a parallel drafter are trained in one forward.

An element (a, d) of a sequence x stands for what the drafter computes at depth d of a round whose
last real token is x[a], the anchor. Its input is x[a] at depth 0 and the mask token behind it, its
position is r = a + d, its label x[r + 1]. It sees the real tokens up to its anchor and the masks of
its own group up to itself, which is what plain causal attention gives it in a round of its own.
The layout is that of PARD (arXiv 2504.18583) and P-EAGLE; ParallelSpec (arXiv 2410.05589) names it
group-wise training. Shape letters: b sequences, s elements, t inputs of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Padding elements stand behind every real anchor: no element sees them, and they see something.
PAD_ANCHOR = 1 << 30


@dataclass(frozen=True)
class Groups:
    """Elements (s) of one sequence: every position at depth 0, then the masks depth by depth."""

    anchors: NDArray[np.int64]
    depths: NDArray[np.int64]

    @property
    def positions(self) -> NDArray[np.int64]:
        """Positions a + d (s), which rope and the label shift go by."""
        return self.anchors + self.depths


@dataclass(frozen=True)
class Cod:
    """Conditional drop-token: depth d keeps a share max(ratio^d, floor) of the anchors."""

    ratio: float
    floor: float

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        for name, share in (("ratio", self.ratio), ("floor", self.floor)):
            if not 0.0 < share <= 1.0:
                raise ValueError(f"the drop-token {name} must be in (0, 1], not {share}")

    def kept(self, anchors: int, depth: int) -> int:
        """How many of `anchors` anchors keep their mask at `depth`, if they have a label there."""
        return max(1, round(anchors * max(self.ratio**depth, self.floor)))


KEEP_ALL = Cod(1.0, 1.0)


def make_groups(
    inputs: int,
    first: int,
    depths: int,
    cod: Cod,
    random: np.random.Generator,
    *,
    begin: int = 0,
) -> Groups:
    """Elements of a sequence of `inputs` inputs, whose label x[inputs] is the last one.

    Depth 0 keeps every position from `begin` on. Masks belong to anchors from `first` on. The
    anchors of depth d are drawn among those of depth d - 1, so a kept element has all of its group
    below it.

    Raises:
        ValueError: there is no depth, or `first` is not an input.
    """
    if depths < 1:
        raise ValueError(f"a drafter has at least one depth, not {depths}")
    if not begin <= first < inputs:
        raise ValueError(f"the first anchor {first} is not among {inputs} inputs from {begin} on")
    anchors = np.arange(first, inputs)
    rows = [np.arange(begin, inputs)]
    for depth in range(1, depths):
        anchors = anchors[anchors + depth < inputs]
        count = min(len(anchors), cod.kept(inputs - first, depth))
        if count < len(anchors):
            anchors = np.sort(random.choice(anchors, count, replace=False))
        rows.append(anchors)
    sizes = [len(row) for row in rows]
    return Groups(np.concatenate(rows), np.repeat(np.arange(depths), sizes))


def pad_groups(groups: Sequence[Groups]) -> tuple[Tensor, Tensor]:
    """Anchors and depths (b, s) of several sequences, padded to the longest."""
    longest = max(len(one.anchors) for one in groups)
    anchors = np.full((len(groups), longest), PAD_ANCHOR)
    depths = np.zeros((len(groups), longest), dtype=np.int64)
    for row, one in enumerate(groups):
        anchors[row, : len(one.anchors)] = one.anchors
        depths[row, : len(one.depths)] = one.depths
    return torch.from_numpy(anchors), torch.from_numpy(depths)


def input_ids(ids: Tensor, anchors: Tensor, depths: Tensor, mask_id: int) -> Tensor:
    """Inputs (b, s) of elements (b, s) of sequences ids (b, t); padding reads some token."""
    real = ids.gather(1, anchors.clamp(max=ids.shape[1] - 1))
    return torch.where(depths == 0, real, mask_id)


def position_ids(anchors: Tensor, depths: Tensor) -> Tensor:
    """Positions (b, s) of elements (b, s); 0 for padding."""
    return torch.where(anchors == PAD_ANCHOR, 0, anchors + depths)


def depth_before(anchors: Tensor, depths: Tensor) -> Tensor:
    """Where (b, s) the element of each one's anchor lies that is one depth before it, if any."""
    same_anchor = anchors[:, :, None] == anchors[:, None, :]
    one_deeper = depths[:, :, None] == depths[:, None, :] + 1
    return (same_anchor & one_deeper).byte().argmax(-1)


def dense_mask(anchors: Tensor, depths: Tensor) -> Tensor:
    """What each query may attend: (b, 1, s, s), true where key (a', d') is seen by query (a, d)."""
    query_a, key_a = anchors[:, :, None], anchors[:, None, :]
    query_d, key_d = depths[:, :, None], depths[:, None, :]
    seen = ((key_d == 0) & (key_a <= query_a)) | ((key_a == query_a) & (key_d <= query_d))
    return seen[:, None]


def causal_mask(length: int, device: torch.device) -> Tensor:
    """What the inputs of a round of its own see, as `dense_mask`: (1, 1, length, length)."""
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()


def mask_rule(
    anchors: Tensor, depths: Tensor
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The rule of `dense_mask` as flex attention takes it: (sequence, head, query, key)."""

    def seen(b: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        real = (depths[b, key] == 0) & (anchors[b, key] <= anchors[b, query])
        own = (anchors[b, key] == anchors[b, query]) & (depths[b, key] <= depths[b, query])
        return real | own

    return seen

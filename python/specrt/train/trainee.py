"""What a training run needs to know of the kind of drafter that it trains.

The run has the data, the layout, the teacher's loss and the checkpoints; a trainee has the module,
says what it reads of the target, and writes its folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from specrt.train.distill import teacher_loss
from specrt.train.generate import TOP
from specrt.train.group_batches import GroupBatch
from specrt.train.group_mask import dense_mask, mask_rule

# Tokens that a drafter proposes in a round when it is measured, if it has no number of its own.
DRAFTS = 8

TopTokens = tuple[Tensor, Tensor]  # best tokens and their log-probabilities, (m, TOP) each


@dataclass(frozen=True)
class TargetView:
    """What the target gives for a batch; None where nobody asked.

    `top` belongs to the m answer tokens of the batch's table. `states` (b, t, f) are hidden states
    at every input, those of several layers side by side.
    """

    top: TopTokens | None
    states: Tensor | None


class Trainee(ABC):
    """A drafter in training.

    Attributes:
        module: what is trained; parameters without gradient stay as they are.
        depths: of the layout in which its drafts are measured.
        begin: the first position of a sequence that it reads.
        own: depths that the target itself fills; drafts are those behind.
        kind: what its card calls it.
        does: what its card says that it drafts.
    """

    module: nn.Module
    depths: int
    begin: int = 0
    own: int = 0
    kind: str
    does: str

    @property
    def drafts(self) -> int:
        """Tokens that it proposes in a round when it is measured."""
        return self.depths - self.own

    @abstractmethod
    def scores(self, model: nn.Module, batch: GroupBatch, seen: object, view: TargetView) -> Tensor:
        """Scores (n, v) of the batch's learned elements.

        Args:
            model: `module`, or what wraps it on several devices.
            batch: of n learned elements.
            seen: what `seen` gave for the batch.
            view: what `view` gave for the batch.
        """

    def losses(self, model: nn.Module, batch: GroupBatch, seen: object, view: TargetView) -> Tensor:
        """Losses (n) of the batch's learned elements, for arguments as of `scores`."""
        return element_losses(self.scores(model, batch, seen, view), batch, view.top)

    @abstractmethod
    def set_attention(self, implementation: str) -> None:
        """Use an attention implementation of transformers."""

    @abstractmethod
    def export(self, target: Path, out: Path) -> None:
        """Write the drafter's folder, with what it shares with `target`."""

    def numbers(self) -> dict[str, object]:
        """What the report of a run says of this drafter alone, as JSON."""
        return {}

    def learned(self, batch: GroupBatch) -> GroupBatch:
        """The batch with the elements that this drafter learns."""
        return batch

    def seen(self, batch: GroupBatch, attention: str) -> object:
        """The mask of the layout for an attention implementation, dense or a block mask."""
        anchors, depths = batch.anchors, batch.depths
        if attention != "flex_attention":
            return dense_mask(anchors, depths)
        from torch.nn.attention.flex_attention import create_block_mask

        b, s = anchors.shape
        rule = mask_rule(anchors, depths)
        return create_block_mask(rule, b, None, s, s, device=str(anchors.device))

    def view(self, target: PreTrainedModel, batch: GroupBatch, *, teach: bool) -> TargetView:
        """Run the target over a batch, if something is needed of it.

        A batch that is scored has its teacher already.
        """
        if not teach or batch.top is not None:
            return TargetView(batch.top if teach else None, None)
        with torch.inference_mode():
            return TargetView(top_tokens(target(batch.ids).logits, batch), None)


def element_losses(scores: Tensor, batch: GroupBatch, top: TopTokens | None) -> Tensor:
    """Loss (n) of each learned element: to the teacher's best tokens `top`, or to the labels."""
    logq = scores.float().log_softmax(-1)
    if top is None:
        return F.nll_loss(logq, batch.labels, reduction="none")
    ids, logp = (part[batch.table_row] for part in top)
    return teacher_loss(logq, ids, logp)


def top_tokens(scores: Tensor, batch: GroupBatch) -> TopTokens:
    """The best tokens of the target's scores (b, t, v) at the batch's answer tokens."""
    rows = scores.flatten(0, 1)[batch.table].float()
    logp, ids = rows.log_softmax(-1).topk(min(TOP, rows.shape[-1]))
    return ids, logp


def card_words(depths: int) -> tuple[str, str]:
    """Kind of a drafter of `depths` positions that reads tokens, and what it drafts."""
    if depths > 1:
        return "Parallel drafter", f"{depths} positions in one forward"
    return "Draft model", "token by token"

"""Training of drafters that read hidden states of their target."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specrt.train.drafter_layers import read_output
from specrt.train.group_batches import GroupBatch
from specrt.train.trainee import TargetView, Trainee, top_tokens


class FeatureTrainee(Trainee):
    """It reads at each position the states from which the target chose the token there.

    Position 0 was chosen from nothing, so sequences begin at position 1.
    """

    begin = 1

    def read(self, target: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (b, t, v) of the target, and states (b, t, f): what its head reads."""
        return read_output(target, ids)

    def width(self, target: PreTrainedModel) -> int:
        """Numbers f of the states at a position."""
        with torch.no_grad():
            _, states = self.read(target, torch.zeros(1, 1, dtype=torch.long, device=target.device))
        return states.shape[-1]

    def view(self, target: PreTrainedModel, batch: GroupBatch, *, teach: bool) -> TargetView:
        """One forward of the target gives states and, for a batch that is not scored, teacher."""
        with torch.no_grad():
            scores, states = self.read(target, batch.ids)
            top = (batch.top or top_tokens(scores, batch)) if teach else None
        return TargetView(top, states)

    def states(self, view: TargetView) -> Tensor:
        """The states (b, t, f) of a view of this drafter."""
        if view.states is None:
            raise TypeError("this drafter reads hidden states of its target")
        return view.states

    def places(self, batch: GroupBatch) -> Tensor:
        """Where (b, s) the states lie from which the target chose each element's anchor."""
        return (batch.anchors - 1).clamp(0, batch.ids.shape[1] - 1)

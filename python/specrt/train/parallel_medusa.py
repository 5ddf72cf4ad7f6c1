"""Training of a parallel Medusa drafter: options, and what it reads of the target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from specrt.train.drafter_layers import layer_config, target_ends
from specrt.train.feature_trainee import FeatureTrainee
from specrt.train.group_batches import GroupBatch
from specrt.train.group_mask import position_ids
from specrt.train.parallel import GroupOptions
from specrt.train.parallel_medusa_drafter import ParallelMedusaDrafter
from specrt.train.parallel_medusa_folder import read_parallel_medusa, write_parallel_medusa
from specrt.train.trainee import TargetView


class ParallelMedusaTrainee(FeatureTrainee):
    """It reads the states alone, and scores with the target's head."""

    module: ParallelMedusaDrafter

    def __init__(
        self, drafter: ParallelMedusaDrafter, depths: int, target: PreTrainedModel
    ) -> None:
        self.module, self.depths = drafter, depths
        self.head = target_ends(target)["lm_head.weight"]
        self.kind, self.does = "Parallel Medusa drafter", f"{depths} positions in one forward"

    def numbers(self) -> dict[str, object]:
        """Layers."""
        return {"layers": self.module.layer.num_hidden_layers}

    def scores(self, model: nn.Module, batch: GroupBatch, seen: object, view: TargetView) -> Tensor:
        """Scores by positions and the states of the position before."""
        normed = model(
            batch.depths > 0,
            self.places(batch),
            self.states(view),
            position_ids(batch.anchors, batch.depths),
            seen,
            batch.rows,
        )
        return F.linear(normed, self.head)

    def set_attention(self, implementation: str) -> None:
        """Of all decoder layers."""
        self.module.layer._attn_implementation = implementation

    def export(self, target: Path, out: Path) -> None:
        """A folder that names the target's weights."""
        write_parallel_medusa(self.module, self.depths, target, out)


@dataclass(frozen=True, kw_only=True)
class ParallelMedusaOptions(GroupOptions):
    """One decoder layer of the target's width, or `layers`, over the states that its head reads.

    `draft` is an earlier drafter to go on from; it says how many layers there are.
    """

    layers: int | None = None

    def trainee(self, target: PreTrainedModel) -> ParallelMedusaTrainee:
        """A new drafter with the norm of the target, or the earlier one."""
        if self.draft is not None:
            if self.layers is not None:
                raise ValueError(
                    "layers are those of the drafter that training starts from; leave the option "
                    "out"
                )
            drafter = read_parallel_medusa(self.draft, target, self.target)
        else:
            drafter = ParallelMedusaDrafter(layer_config(target.config, self.layers or 1))
            with torch.no_grad():
                drafter.norm.weight.copy_(target_ends(target)["norm.weight"])
        return ParallelMedusaTrainee(drafter, self.depths, target)

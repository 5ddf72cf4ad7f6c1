"""Training of a small causal LM that fills masks (PARD's form), or of a plain draft model."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from transformers import LlamaForCausalLM

from specrt.train.group_batches import GroupBatch
from specrt.train.group_mask import input_ids, position_ids
from specrt.train.mask_drafter import MaskDrafter, export_drafter, mask_token
from specrt.train.trainee import DRAFTS, TargetView, Trainee, card_words


class MaskTrainee(Trainee):
    """It reads tokens and masks alone; of one depth it is a plain draft model."""

    module: MaskDrafter

    def __init__(self, causal: LlamaForCausalLM, depths: int) -> None:
        self.module = MaskDrafter(causal)
        self.depths = depths
        self.kind, self.does = card_words(depths)
        self.mask_id = mask_token(causal.config) or 0  # one depth has no masks

    @property
    def drafts(self) -> int:
        """A plain draft goes on token by token."""
        return self.depths if self.depths > 1 else DRAFTS

    def scores(self, model: nn.Module, batch: GroupBatch, seen: object, view: TargetView) -> Tensor:
        """Scores by tokens and positions."""
        scores: Tensor = model(
            input_ids(batch.ids, batch.anchors, batch.depths, self.mask_id),
            position_ids(batch.anchors, batch.depths),
            seen,
            batch.rows,
        )
        return scores

    def set_attention(self, implementation: str) -> None:
        """Of the whole causal LM."""
        self.module.causal.set_attn_implementation(implementation)

    def export(self, target: Path, out: Path) -> None:
        """A causal LM's folder; `pard_token` names the mask."""
        export_drafter(self.module.causal, self.depths, target, out)

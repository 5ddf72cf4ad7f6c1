"""Training of Medusa heads for a target that stays as it is (Medusa-1, arXiv 2401.10774)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedModel

from specrt.train.drafter_layers import check_architecture, pick_states, target_ends
from specrt.train.feature_trainee import FeatureTrainee
from specrt.train.group_batches import GroupBatch
from specrt.train.group_mask import KEEP_ALL, Cod
from specrt.train.medusa_folder import read_medusa, write_medusa
from specrt.train.medusa_heads import MedusaConfig, MedusaHeads
from specrt.train.parallel import GroupOptions
from specrt.train.trainee import TargetView


class MedusaTrainee(FeatureTrainee):
    """Depth d of an anchor is the draft of head d."""

    module: MedusaHeads

    def __init__(self, heads: MedusaHeads) -> None:
        self.module = heads
        self.depths = heads.config.heads
        self.kind, self.does = "Medusa heads", f"{self.depths} positions, one by each head"

    def numbers(self) -> dict[str, object]:
        """Blocks of each head."""
        return {"head_layers": self.module.config.layers}

    def seen(self, batch: GroupBatch, attention: str) -> None:
        """Heads have no attention."""

    def scores(self, model: nn.Module, batch: GroupBatch, seen: object, view: TargetView) -> Tensor:
        """Scores by the states alone."""
        states = pick_states(self.states(view), self.places(batch)).flatten(0, 1)
        scores: Tensor = model(states[batch.rows].float(), batch.depth_of)
        return scores

    def set_attention(self, implementation: str) -> None:
        """Heads have no attention."""

    def export(self, target: Path, out: Path) -> None:
        """A folder in FasterDecoding's form."""
        write_medusa(self.module, target, out)


@dataclass(frozen=True, kw_only=True)
class MedusaOptions(GroupOptions):
    """Heads, one for each of `depths` positions, that begin with copies of the target's head.

    `draft` is an earlier folder of the same shape; `head_layers` are the blocks of each head.
    """

    depths: int = 4
    head_layers: int = 1
    depth_decay: float = 0.8
    cod: Cod = KEEP_ALL
    learning_rate: float = 1e-3

    def trainee(self, target: PreTrainedModel) -> MedusaTrainee:
        """New heads, or the earlier ones."""
        check_architecture(target.config)
        if self.head_layers < 1:
            raise ValueError(f"a head has at least one layer, not {self.head_layers}")
        width, vocab = target.config.hidden_size, target.config.vocab_size
        shape = MedusaConfig(self.depths, self.head_layers, width, vocab)
        if self.draft is None:
            heads = MedusaHeads(shape)
            heads.start_from(target_ends(target)["lm_head.weight"])
            return MedusaTrainee(heads)
        heads = read_medusa(self.draft, target)
        if heads.config != shape:
            raise ValueError(
                f"{self.draft} has {heads.config.heads} heads with {heads.config.layers} layers "
                f"each, not {self.depths} with {self.head_layers}; ask for those that it has"
            )
        return MedusaTrainee(heads)

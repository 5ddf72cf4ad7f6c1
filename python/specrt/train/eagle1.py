"""Training of an EAGLE-1 drafter: options, losses, and how its own estimates are measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from specrt.train.drafter_layers import layer_config, pick_states, target_ends
from specrt.train.eagle1_drafter import Eagle1Drafter
from specrt.train.eagle1_folder import read_eagle1, write_eagle1
from specrt.train.feature_trainee import FeatureTrainee
from specrt.train.group_batches import GroupBatch
from specrt.train.group_mask import KEEP_ALL, Cod, depth_before, position_ids
from specrt.train.parallel import RunOptions
from specrt.train.trainee import DRAFTS, TargetView, element_losses

# Half the width of the uniform noise on states, in units of their RMS: estimates are not exact.
NOISE = 0.1


class Eagle1Trainee(FeatureTrainee):
    """It reads at each position the token too. It learns depth 0 alone.

    Element (a, d) of a deeper layout is draft d of a round that ends at token a, as long as its
    drafts are those of the text: token a + d beside the estimate of the element one depth before.
    """

    module: Eagle1Drafter
    depths = DRAFTS
    kind = "EAGLE drafter"
    does = "token by token, each from the estimate before"

    def __init__(
        self,
        drafter: Eagle1Drafter,
        target: PreTrainedModel,
        *,
        feature_weight: float,
        score_weight: float,
    ) -> None:
        self.module = drafter
        self.head = target_ends(target)["lm_head.weight"]
        self.feature_weight, self.score_weight = feature_weight, score_weight

    def estimates(
        self, model: nn.Module, batch: GroupBatch, seen: object, states: Tensor
    ) -> Tensor:
        """Estimates (n, d) of the states from which the target chooses the batch's labels."""
        positions = position_ids(batch.anchors, batch.depths)
        ids = batch.ids.gather(1, positions)
        known = pick_states(states, self.places(batch))
        found: Tensor = model(ids, known, positions, seen)
        for depth in range(1, int(batch.depths.max()) + 1):
            before = pick_states(found, depth_before(batch.anchors, batch.depths))
            known = torch.where((batch.depths == depth)[..., None], before, known)
            found = model(ids, known, positions, seen)
        return found.flatten(0, 1)[batch.rows]

    def scores(self, model: nn.Module, batch: GroupBatch, seen: object, view: TargetView) -> Tensor:
        """Scores by tokens, positions and the states of the position before, or estimates."""
        return F.linear(self.estimates(model, batch, seen, self.states(view)), self.head)

    def losses(self, model: nn.Module, batch: GroupBatch, seen: object, view: TargetView) -> Tensor:
        """Smooth L1 of the estimates and the loss of their scores, weighted."""
        states = self.states(view).float()
        found = self.estimates(model, batch, seen, with_noise(states, batch.noise_seed))
        chosen = pick_states(states, position_ids(batch.anchors, batch.depths))
        wanted = chosen.flatten(0, 1)[batch.rows]  # the states that chose the labels
        features = F.smooth_l1_loss(found.float(), wanted, reduction="none").mean(-1)
        scored = element_losses(F.linear(found, self.head), batch, view.top)
        return self.feature_weight * features + self.score_weight * scored

    def set_attention(self, implementation: str) -> None:
        """Of the one decoder layer."""
        self.module.layer._attn_implementation = implementation

    def export(self, target: Path, out: Path) -> None:
        """A folder as EAGLE's authors publish them."""
        write_eagle1(self.module, target, out)


def with_noise(states: Tensor, seed: int) -> Tensor:
    """States (b, t, d) with noise that follows from the seed alone."""
    random = torch.Generator(states.device).manual_seed(seed)
    noise = torch.rand(states.shape, generator=random, device=states.device) * 2.0 - 1.0
    return states + NOISE * states.square().mean(-1, keepdim=True).sqrt() * noise


@dataclass(frozen=True, kw_only=True)
class Eagle1Options(RunOptions):
    """One decoder layer that estimates the target's next state; `draft` is an earlier one.

    `feature_weight` and `score_weight` weigh the losses of the estimates and of their scores.
    """

    feature_weight: float = 1.0
    score_weight: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        if self.feature_weight < 0.0 or self.score_weight <= 0.0:
            raise ValueError(
                f"the feature weight ({self.feature_weight}) must not be negative, the score "
                f"weight ({self.score_weight}) must be positive"
            )

    @property
    def depths(self) -> int:
        """It learns to estimate one state behind what is known."""
        return 1

    @property
    def cod(self) -> Cod:
        """Every position."""
        return KEEP_ALL

    def layout_numbers(self) -> dict[str, object]:
        """Weights and noise."""
        return {
            "feature_weight": self.feature_weight,
            "score_weight": self.score_weight,
            "feature_noise": NOISE,
        }

    def mean_loss(self, losses: Tensor, depth_of: Tensor) -> Tensor:
        """Plain mean."""
        return losses.mean()

    def trainee(self, target: PreTrainedModel) -> Eagle1Trainee:
        """A new drafter with the embedding of the target, or the earlier one."""
        if self.draft is not None:
            drafter = read_eagle1(self.draft, target)
        else:
            drafter = Eagle1Drafter(layer_config(target.config, 1))
            with torch.no_grad():
                drafter.embed_tokens.weight.copy_(target_ends(target)["embed_tokens.weight"])
        return Eagle1Trainee(
            drafter,
            target,
            feature_weight=self.feature_weight,
            score_weight=self.score_weight,
        )

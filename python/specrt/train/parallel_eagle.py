"""Training of a P-EAGLE drafter: options, what it reads of the target, and its start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specrt.build.tokenizer import read_vocabulary
from specrt.train.drafter_layers import layer_config, target_ends
from specrt.train.eagle_drafter import EagleConfig, EagleDrafter, read_states
from specrt.train.eagle_folder import (
    check_target_layers,
    read_eagle,
    target_layers_of,
    write_eagle,
)
from specrt.train.feature_trainee import FeatureTrainee
from specrt.train.group_batches import GroupBatch
from specrt.train.group_mask import input_ids, position_ids
from specrt.train.parallel import GroupOptions
from specrt.train.trainee import TargetView, card_words

_MASK_NAMES = ("<|mask|>", "[mask]", "<mask>")


class EagleTrainee(FeatureTrainee):
    """It reads at each position the token too, and states of several layers."""

    module: EagleDrafter

    def __init__(self, drafter: EagleDrafter, depths: int) -> None:
        self.module = drafter
        self.depths = depths
        self.kind, self.does = card_words(depths)

    def numbers(self) -> dict[str, object]:
        """Layers, and the mask token."""
        config = self.module.config
        return {
            "layers": config.layer.num_hidden_layers,
            "target_layers": list(config.target_layers),
            "mask_token": config.mask_token,
        }

    def read(self, target: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, and the states of the chosen layers."""
        return read_states(target, ids, self.module.config.target_layers)

    def scores(self, model: nn.Module, batch: GroupBatch, seen: object, view: TargetView) -> Tensor:
        """Scores by tokens, positions and the states of the position before."""
        scores: Tensor = model(
            input_ids(batch.ids, batch.anchors, batch.depths, self.module.config.mask_token),
            batch.depths > 0,
            self.places(batch),
            self.states(view),
            position_ids(batch.anchors, batch.depths),
            seen,
            batch.rows,
        )
        return scores

    def set_attention(self, implementation: str) -> None:
        """Of all decoder layers."""
        self.module.config.layer._attn_implementation = implementation

    def export(self, target: Path, out: Path) -> None:
        """A folder of the `speculators` package."""
        write_eagle(self.module, self.depths, target, out)


@dataclass(frozen=True, kw_only=True)
class EagleOptions(GroupOptions):
    """A P-EAGLE drafter: a few decoder layers of the target's width over the target's states.

    Attributes:
        draft: an earlier drafter to go on from; it says the rest.
        layers: of the drafter; None is 1.
        target_layers: those whose inputs are read; None for EAGLE-3's.
        mask_token: a token that no text has; None looks for one.
    """

    layers: int | None = None
    target_layers: tuple[int, ...] | None = None
    mask_token: int | None = None

    def trainee(self, target: PreTrainedModel) -> EagleTrainee:
        """A new drafter with embedding, norm and head of the target, or the earlier one."""
        if self.depths < 2:
            raise ValueError(f"a parallel drafter has 2 depths or more, not {self.depths}")
        if self.draft is not None:
            if (self.layers, self.target_layers, self.mask_token) != (None, None, None):
                raise ValueError(
                    "layers, target layers and mask token are those of the drafter that training "
                    "starts from; leave the options out"
                )
            return EagleTrainee(read_eagle(self.draft, target), self.depths)
        chosen = self.target_layers or target_layers_of(target.config)
        check_target_layers(chosen, target.config)
        layer = layer_config(target.config, self.layers or 1)
        mask = self.mask_token
        if mask is None:
            mask = find_mask_token(self.target, layer.vocab_size)
        elif not 0 <= mask < layer.vocab_size:
            raise ValueError(f"mask token {mask} is no token below {layer.vocab_size}")
        # The layers' states may differ by orders of magnitude, and one drowns the others.
        drafter = EagleDrafter(EagleConfig(layer, chosen, mask, fc_norm=True))
        drafter.load_state_dict(target_ends(target), strict=False)
        with torch.no_grad():
            drafter.embed_tokens.weight[mask] = drafter.embed_tokens.weight.mean(dim=0)
        return EagleTrainee(drafter, self.depths)


def find_mask_token(target: Path, vocab: int) -> int:
    """A token that no text has: one named mask, or the first that the tokenizer leaves unused.

    Raises:
        ValueError: there is none.
    """
    tokens = read_vocabulary(target, vocab) or {}
    named = [tokens[name] for name in tokens if name.lower() in _MASK_NAMES]
    unused = sorted(set(range(vocab)) - set(tokens.values())) if tokens else []
    if not named and not unused:
        raise ValueError(
            f"the tokenizer of {target} has no mask token and leaves none of {vocab} tokens "
            "unused; name one that no text has with --mask-token"
        )
    return min(named) if named else unused[0]

"""Training of a P-EAGLE drafter: options, what it reads of the target, and its start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PretrainedConfig, PreTrainedModel

from specrt.build.hf import ARCHITECTURES
from specrt.build.tokenizer import read_vocabulary
from specrt.train.eagle_drafter import EagleConfig, EagleDrafter, read_states, target_ends
from specrt.train.eagle_folder import (
    check_target_layers,
    read_eagle,
    target_layers_of,
    write_eagle,
)
from specrt.train.group_batches import GroupBatch
from specrt.train.group_mask import input_ids, position_ids
from specrt.train.parallel import GroupOptions
from specrt.train.trainee import TargetView, Trainee, card_words, top_tokens

_MASK_NAMES = ("<|mask|>", "[mask]", "<mask>")


class EagleTrainee(Trainee):
    """It reads at each position the token, and the states from which the target chose it.

    Position 0 was chosen from nothing, so sequences begin at position 1.
    """

    module: EagleDrafter
    begin = 1

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

    def view(self, target: PreTrainedModel, batch: GroupBatch, *, teach: bool) -> TargetView:
        """One forward of the target gives states and, for a batch that is not scored, teacher."""
        with torch.no_grad():
            scores, states = read_states(target, batch.ids, self.module.config.target_layers)
            top = batch.top or top_tokens(scores, batch)
        return TargetView(top if teach else None, states)

    def scores(self, model: nn.Module, batch: GroupBatch, seen: object, view: TargetView) -> Tensor:
        """Scores by tokens, positions and the states of the position before."""
        if view.states is None:
            raise TypeError("a P-EAGLE drafter reads hidden states of its target")
        last = view.states.shape[1] - 1
        scores: Tensor = model(
            input_ids(batch.ids, batch.anchors, batch.depths, self.module.config.mask_token),
            batch.depths > 0,
            (batch.anchors - 1).clamp(0, last),
            view.states,
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

    draft: Path | None = None
    layers: int | None = None
    target_layers: tuple[int, ...] | None = None
    mask_token: int | None = None

    @property
    def start(self) -> Path | None:
        """The earlier drafter."""
        return self.draft

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
        drafter = EagleDrafter(EagleConfig(layer, chosen, mask))
        drafter.load_state_dict(target_ends(target), strict=False)
        with torch.no_grad():
            drafter.embed_tokens.weight[mask] = drafter.embed_tokens.weight.mean(dim=0)
        return EagleTrainee(drafter, self.depths)


def layer_config(target: PretrainedConfig, layers: int) -> LlamaConfig:
    """Decoder layers of the target's sizes; biases and windows are not taken over.

    Raises:
        ValueError: the target is of an architecture that specrt does not know.
    """
    if target.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"the target is a {target.model_type!r} model; specrt knows {known}")
    heads: int = target.num_attention_heads
    return LlamaConfig(
        vocab_size=target.vocab_size,
        hidden_size=target.hidden_size,
        intermediate_size=target.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=target.num_key_value_heads,
        head_dim=getattr(target, "head_dim", None) or target.hidden_size // heads,
        max_position_embeddings=target.max_position_embeddings,
        rms_norm_eps=target.rms_norm_eps,
        rope_parameters=target.rope_parameters,
        tie_word_embeddings=False,
    )


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

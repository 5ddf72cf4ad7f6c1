"""A drafter that fills masks and reads hidden states of its target (P-EAGLE).

EAGLE-3 (arXiv 2503.01840) pairs a token with the hidden states that led to it, of a few layers of
the target side by side. P-EAGLE drafts several positions in one forward: a mask has a token of its
own and, for the states that do not exist yet, one learned vector. Parameters are named as in the
checkpoints of the `speculators` package. Shape letters: b sequences, s elements, t inputs of the
target, d width, f features (as many widths as layers are read), v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from specrt.train.drafter_layers import pick_states, start_randomly
from specrt.train.group_mask import causal_mask


@dataclass(frozen=True)
class EagleConfig:
    """The shape of a drafter.

    Attributes:
        layer: sizes of the decoder layers; width and vocabulary are the target's.
        target_layers: the states that enter these layers of the target are read; 0 is the first.
        mask_token: a token that no text has.
        norm_before_residual: whether the first layer adds to the normed states.
        norm_before_fc: whether one norm goes over all features.
        fc_norm: whether a norm goes over the states of each layer.
    """

    layer: LlamaConfig
    target_layers: tuple[int, ...]
    mask_token: int
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False

    @property
    def features(self) -> int:
        """Numbers that are read of the target at each position."""
        width: int = self.layer.hidden_size
        return len(self.target_layers) * width


class FirstLayer(LlamaDecoderLayer):  # type: ignore[no-untyped-call]
    """A decoder layer whose attention reads embedding and projected states side by side."""

    def __init__(self, config: EagleConfig) -> None:
        super().__init__(config.layer, 0)
        width = config.layer.hidden_size
        self.norm_before_residual = config.norm_before_residual
        self.hidden_norm = LlamaRMSNorm(width, eps=config.layer.rms_norm_eps)
        for name in ("q_proj", "k_proj", "v_proj"):
            narrow = getattr(self.self_attn, name)
            wide = nn.Linear(2 * width, narrow.out_features, bias=narrow.bias is not None)
            setattr(self.self_attn, name, wide)

    def forward(  # type: ignore[override]
        self, embedded: Tensor, hidden: Tensor, seen: object, angles: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Map embeddings and projected states (b, s, d) to (b, s, d)."""
        normed = self.hidden_norm(hidden)
        attended, _ = self.self_attn(
            torch.cat((self.input_layernorm(embedded), normed), dim=-1),
            attention_mask=seen,
            position_embeddings=angles,
        )
        x = (normed if self.norm_before_residual else hidden) + attended
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class EagleDrafter(nn.Module):
    """Scores of chosen elements of grouped sequences. The head is the target's and not trained."""

    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        self.config = config
        layer, features = config.layer, config.features
        layer._attn_implementation = "sdpa"  # takes a mask of truth values, as flex attention does
        width, eps = layer.hidden_size, layer.rms_norm_eps
        self.embed_tokens = nn.Embedding(layer.vocab_size, width)
        self.mask_hidden = nn.Parameter(torch.randn(1, 1, features))
        self.input_norm = LlamaRMSNorm(features, eps=eps) if config.norm_before_fc else None
        norms = [LlamaRMSNorm(width, eps=eps) for _ in config.target_layers]
        self.fc_norm = nn.ModuleList(norms) if config.fc_norm else None
        self.fc = nn.Linear(features, width, bias=False)
        others = [LlamaDecoderLayer(layer, at) for at in range(1, layer.num_hidden_layers)]
        self.layers = nn.ModuleList([FirstLayer(config), *others])
        self.norm = LlamaRMSNorm(width, eps=eps)
        self.lm_head = nn.Linear(width, layer.vocab_size, bias=False)
        self.lm_head.weight.requires_grad_(False)
        self.rotary_emb = LlamaRotaryEmbedding(layer)
        start_randomly(self, layer.initializer_range)

    def project(self, states: Tensor) -> Tensor:
        """Hidden states (..., f) of the target as one state (..., d)."""
        states = states.to(self.fc.weight.dtype)
        if self.input_norm is not None:
            states = self.input_norm(states)
        if self.fc_norm is not None:
            parts = states.chunk(len(self.fc_norm), dim=-1)
            normed = [norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)]
            states = torch.cat(normed, dim=-1)
        projected: Tensor = self.fc(states)
        return projected

    def forward(
        self,
        ids: Tensor,
        masked: Tensor,
        places: Tensor,
        states: Tensor,
        positions: Tensor,
        seen: object,
        rows: Tensor,
    ) -> Tensor:
        """Scores (n, v) of the flat elements `rows` (n).

        Args:
            ids: inputs (b, s), the mask token at masks.
            masked: which of them are masks (b, s).
            places: where in `states` those of the other elements lie (b, s).
            states: hidden states of the target (b, t, f).
            positions: of the elements (b, s).
            seen: the mask of `group_mask`, dense (b, 1, s, s) or a block mask.
            rows: elements whose scores are wanted.
        """
        picked = pick_states(self.project(states), places)
        embedded = self.embed_tokens(ids)
        hidden = torch.where(masked[..., None], self.project(self.mask_hidden), picked)
        hidden = hidden.to(embedded.dtype)  # the residual stream stays f32 under autocast
        angles = self.rotary_emb(embedded, positions)
        x = self.layers[0](embedded, hidden, seen, angles)
        for layer in self.layers[1:]:
            x = layer(x, attention_mask=seen, position_embeddings=angles)
        scores: Tensor = self.lm_head(self.norm(x.flatten(0, 1)[rows]))
        return scores


def read_states(
    target: PreTrainedModel, ids: Tensor, layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Scores (b, t, v) of the target for ids (b, t), and the states (b, t, f) that enter layers."""
    out = target(ids, output_hidden_states=True)
    return out.logits, torch.cat([out.hidden_states[layer] for layer in layers], dim=-1)


@torch.inference_mode()
def round_scores(
    drafter: EagleDrafter, target: PreTrainedModel, tokens: Sequence[int], depths: int
) -> Tensor:
    """Scores (depths, v) that one inference call gives behind `tokens`, two at least.

    Row d is the draft for position len(tokens) + d. This is a round without a cache, as plain as
    can be: every token but the first with the states of the token before it, then depths - 1 masks.
    Runtimes and the training layout are checked against it.
    """
    device = drafter.fc.weight.device
    _, states = read_states(
        target, torch.tensor([tokens[:-1]], device=device), drafter.config.target_layers
    )
    known, length = len(tokens) - 1, len(tokens) + depths - 2
    ids = torch.tensor([[*tokens[1:], *[drafter.config.mask_token] * (depths - 1)]], device=device)
    positions = torch.arange(length, device=device)[None]
    scores: Tensor = drafter(
        ids,
        positions >= known,
        positions.clamp(max=known - 1),
        states,
        positions,
        causal_mask(length, device),
        torch.arange(length - depths, length, device=device),
    )
    return scores

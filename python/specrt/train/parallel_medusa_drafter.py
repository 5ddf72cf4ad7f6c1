"""A drafter that fills masks with decoder layers over its target's last states.

ParallelSpec (arXiv 2410.05589) in its Medusa form: a decoder layer takes the place of the heads. A
row is the state from which the target chose a token; a mask is one learned vector. There are no
tokens among the inputs, and the target's head gives the scores. Shape letters: b sequences, s
elements, t inputs of the target, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from specrt.train.drafter_layers import pick_states, read_output, start_randomly, target_ends
from specrt.train.group_mask import causal_mask


class ParallelMedusaDrafter(nn.Module):
    """What the target's head reads at chosen elements of grouped sequences."""

    def __init__(self, layer: LlamaConfig) -> None:
        super().__init__()
        self.layer = layer
        layer._attn_implementation = "sdpa"  # takes a mask of truth values, as flex attention does
        width = layer.hidden_size
        self.mask_hidden = nn.Parameter(layer.initializer_range * torch.randn(1, 1, width))
        self.layers = nn.ModuleList(
            LlamaDecoderLayer(layer, at) for at in range(layer.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(width, eps=layer.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(layer)
        start_randomly(self, layer.initializer_range)

    def forward(
        self,
        masked: Tensor,
        places: Tensor,
        states: Tensor,
        positions: Tensor,
        seen: object,
        rows: Tensor,
    ) -> Tensor:
        """Normed states (n, d) of the flat elements `rows` (n).

        Args:
            masked: which elements are masks (b, s).
            places: where in `states` those of the other elements lie (b, s).
            states: last states of the target (b, t, d).
            positions: of the elements (b, s).
            seen: the mask of `group_mask`, dense (b, 1, s, s) or a block mask.
            rows: elements that are wanted.
        """
        picked = pick_states(states, places).to(self.mask_hidden.dtype)
        x = torch.where(masked[..., None], self.mask_hidden, picked)
        angles = self.rotary_emb(x, positions)
        for layer in self.layers:
            x = layer(x, attention_mask=seen, position_embeddings=angles)
        normed: Tensor = self.norm(x.flatten(0, 1)[rows])
        return normed


@torch.inference_mode()
def round_scores(
    drafter: ParallelMedusaDrafter, target: PreTrainedModel, tokens: Sequence[int], depths: int
) -> Tensor:
    """Scores (depths, v) that one inference call gives behind `tokens`, two at least.

    Row d is the draft for position len(tokens) + d. This is a round without a cache, as plain as
    can be: the state that chose each token but the first, then depths - 1 masks. Runtimes and the
    training layout are checked against it.
    """
    device = drafter.mask_hidden.device
    _, states = read_output(target, torch.tensor([tokens[:-1]], device=device))
    known, length = len(tokens) - 1, len(tokens) + depths - 2
    positions = torch.arange(length, device=device)[None]
    normed = drafter(
        positions >= known,
        positions.clamp(max=known - 1),
        states,
        positions,
        causal_mask(length, device),
        torch.arange(length - depths, length, device=device),
    )
    return F.linear(normed, target_ends(target)["lm_head.weight"])

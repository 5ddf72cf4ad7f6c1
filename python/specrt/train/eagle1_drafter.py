"""A drafter that goes on with its own estimates of its target's last states (EAGLE-1).

Li et al., arXiv 2401.15077: a token beside the state from which the target chose it gives an
estimate of the next state, on which the target's head scores the token behind. Behind the text,
estimates take the place of states. Parameters are named as in published checkpoints. Shape letters:
b sequences, s elements, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from specrt.train.drafter_layers import read_output, start_randomly, target_ends
from specrt.train.group_mask import causal_mask


class Eagle1Drafter(nn.Module):
    """One decoder layer. The embedding is the target's and not trained."""

    def __init__(self, layer: LlamaConfig) -> None:
        super().__init__()
        self.layer = layer
        layer._attn_implementation = "sdpa"  # takes a mask of truth values, as flex attention does
        width = layer.hidden_size
        self.embed_tokens = nn.Embedding(layer.vocab_size, width)
        self.embed_tokens.weight.requires_grad_(False)
        self.fc = nn.Linear(2 * width, width)
        first = LlamaDecoderLayer(layer, 0)
        first.input_layernorm = nn.Identity()  # type: ignore[assignment]  # as published
        self.layers = nn.ModuleList([first])
        self.rotary_emb = LlamaRotaryEmbedding(layer)
        start_randomly(self, layer.initializer_range)
        nn.init.zeros_(self.fc.bias)

    def forward(self, ids: Tensor, states: Tensor, positions: Tensor, seen: object) -> Tensor:
        """Estimates (b, s, d) of the states behind the tokens.

        Args:
            ids: tokens (b, s).
            states: from which the target chose them, or estimates of those (b, s, d).
            positions: of the tokens (b, s).
            seen: the mask of `group_mask`, dense (b, 1, s, s) or a block mask.
        """
        embedded = self.embed_tokens(ids)
        pairs = torch.cat((embedded, states.to(embedded.dtype)), dim=-1)
        x = self.fc(pairs).to(embedded.dtype)  # the residual stream stays f32 under autocast
        angles = self.rotary_emb(x, positions)
        estimates: Tensor = self.layers[0](x, attention_mask=seen, position_embeddings=angles)
        return estimates


@torch.inference_mode()
def round_scores(
    drafter: Eagle1Drafter, target: PreTrainedModel, tokens: Sequence[int], depths: int
) -> Tensor:
    """Scores (depths, v) behind `tokens`, two at least, when the best token is drafted each time.

    Row d is the draft for position len(tokens) + d. This is a round without a cache, as plain as
    can be: every token but the first with the state that chose it, then each draft with the
    estimate that it comes from. Runtimes and the training layout are checked against it.
    """
    device = drafter.fc.weight.device
    head = target_ends(target)["lm_head.weight"]
    _, states = read_output(target, torch.tensor([tokens[:-1]], device=device))
    text, scores = list(tokens), []
    for _ in range(depths):
        length = len(text) - 1
        estimates = drafter(
            torch.tensor([text[1:]], device=device),
            states,
            torch.arange(length, device=device)[None],
            causal_mask(length, device),
        )
        scores.append(F.linear(estimates[0, -1], head))
        states = torch.cat((states, estimates[:, -1:]), dim=1)
        text.append(int(scores[-1].argmax()))
    return torch.stack(scores)

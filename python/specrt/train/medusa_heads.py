"""Medusa heads (Cai et al., arXiv 2401.10774): each drafts one position from one hidden state.

Head d reads the state from which the target chooses the next token, and predicts the token that
stands d + 1 behind that one. Shape letters: n rows, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from specrt.train.drafter_layers import read_output


@dataclass(frozen=True)
class MedusaConfig:
    """The shape of the heads; width and vocabulary are the target's, `layers` are of each head."""

    heads: int
    layers: int
    width: int
    vocab: int


class ResBlock(nn.Module):
    """x + SiLU(W x + b), at first x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, d) to (n, d)."""
        return x + F.silu(self.linear(x))


class MedusaHeads(nn.Module):
    """Heads that do not depend on each other."""

    def __init__(self, config: MedusaConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ResBlock(config.width) for _ in range(config.layers)))
            for _ in range(config.heads)
        )
        self.lm_heads = nn.ModuleList(
            nn.Linear(config.width, config.vocab, bias=False) for _ in range(config.heads)
        )

    def start_from(self, lm_head: Tensor) -> None:
        """Let all heads score as the target's head (v, d) does."""
        with torch.no_grad():
            for one in self.lm_heads:
                one.get_parameter("weight").copy_(lm_head)

    def forward(self, states: Tensor, depths: Tensor) -> Tensor:
        """Scores (n, v) by the heads `depths` (n) for states (n, d)."""
        order = depths.argsort(stable=True)
        counts = depths.bincount(minlength=self.config.heads).tolist()
        parts = torch.split(states[order], counts)
        heads = zip(self.blocks, self.lm_heads, parts, strict=True)
        scores = torch.cat([head(blocks(part)) for blocks, head, part in heads])
        return scores[order.argsort()]


@torch.inference_mode()
def round_scores(
    heads: MedusaHeads, target: PreTrainedModel, tokens: Sequence[int], depths: int
) -> Tensor:
    """Scores (depths, v) behind `tokens`, two at least, by the first heads.

    Row d is the draft for position len(tokens) + d. All heads read the state that chose the last
    token. Runtimes and the training layout are checked against it.
    """
    device = target.device
    _, states = read_output(target, torch.tensor([tokens[:-1]], device=device))
    same = states[0, -1:].float().expand(depths, -1)
    scores: Tensor = heads(same, torch.arange(depths, device=device))
    return scores

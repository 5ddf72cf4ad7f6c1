"""Inputs of the attention of streams, and the attention of a dense mask over them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SCALE = 0.3
ROWS = torch.tensor([[0, 3, 6], [2, 2, 5]])


def make_inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries, keys and values of 2 sequences, 4 heads over 2, 3 positions, 4 streams, 7 inputs."""
    torch.manual_seed(0)
    b, h, g, p, s, t, e = 2, 4, 2, 3, 4, 7, 5
    sizes = ((b, h, p, s, e), (b, g, t, e), (b, g, t, e), (b, g, p, s, e), (b, g, p, s, e))
    return [torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes]


def dense_attention(
    q: Tensor, main_k: Tensor, main_v: Tensor, stream_k: Tensor, stream_v: Tensor, rows: Tensor
) -> Tensor:
    """All keys side by side under one mask."""
    b, h, p, s, _ = q.shape
    g, t = main_k.shape[1:3]
    k = torch.cat((main_k, stream_k.flatten(2, 3)), dim=2).repeat_interleave(h // g, dim=1)
    v = torch.cat((main_v, stream_v.flatten(2, 3)), dim=2).repeat_interleave(h // g, dim=1)
    seen = torch.zeros(b, p, s, t + p * s, dtype=torch.bool)
    for one in range(b):
        for place in range(p):
            for stream in range(s):
                seen[one, place, stream, : rows[one, place] + 1] = True
                begin = t + place * s
                seen[one, place, stream, begin : begin + stream + 1] = True
    y = F.scaled_dot_product_attention(
        q.flatten(2, 3), k, v, attn_mask=seen.flatten(1, 2)[:, None], scale=SCALE
    )
    return y.view(q.shape)


def gradients(y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Of a weighted sum of y, which differs in every element."""
    weights = torch.arange(y.numel(), dtype=y.dtype).view(y.shape).sin()
    return torch.autograd.grad((y * weights).sum(), inputs)

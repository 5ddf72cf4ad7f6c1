"""Attention of streams: over the main path up to their position, and over the streams before them.

`stream_attention` is plain PyTorch; `specrt.torch_ops` has it as one operator.

The streams of a position do not see those of another. Shape letters: b sequences, h / g query / kv
heads, p positions with streams, s streams of each, t main positions, e head dim.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]
ATTENTIONS = ("torch", "fused", "auto")


def stream_attention(
    q: Tensor,
    main_k: Tensor,
    main_v: Tensor,
    stream_k: Tensor,
    stream_v: Tensor,
    rows: Tensor,
    scale: float,
) -> Tensor:
    """Attended values (b, h, p, s, e) of streams.

    Both parts have a softmax of their own; their log-sum-exp says what share each has of the whole.

    Args:
        q: queries (b, h, p, s, e).
        main_k: keys (b, g, t, e) of the main path.
        main_v: values (b, g, t, e) of the main path.
        stream_k: keys (b, g, p, s, e) of the streams.
        stream_v: values (b, g, p, s, e) of the streams.
        rows: the main position (b, p) of each group of streams, which see up to there.
        scale: of the products of queries and keys.
    """
    b, h, p, s, e = q.shape
    g, t = main_k.shape[1:3]
    q = q.view(b, g, h // g, p, s, e) * scale
    # One product for all queries that share keys.
    far = (q.reshape(b, g, -1, e) @ main_k.transpose(-1, -2)).view(b, g, h // g, p, s, t)
    behind = torch.arange(t, device=q.device) > rows[..., None]  # (b, p, t)
    far = far.masked_fill(behind[:, None, None, :, None], float("-inf"))
    near = q @ stream_k[:, :, None].transpose(-1, -2)  # (b, g, h/g, p, s, s)
    later = torch.ones(s, s, dtype=torch.bool, device=q.device).triu(1)
    near = near.masked_fill(later, float("-inf"))
    far_sum, near_sum = far.logsumexp(-1, keepdim=True), near.logsumexp(-1, keepdim=True)
    far_share = torch.sigmoid(far_sum - near_sum).to(main_v.dtype)
    weights = (far - far_sum).exp().to(main_v.dtype).view(b, g, -1, t)
    from_main = (weights @ main_v).view(b, g, h // g, p, s, e)
    from_streams = (near - near_sum).exp().to(stream_v.dtype) @ stream_v[:, :, None]
    mixed = far_share * from_main + (1.0 - far_share) * from_streams
    return mixed.view(b, h, p, s, e)


def choose_attention(name: str, device: torch.device) -> Attention:
    """The plain form ("torch"), the operator ("fused"), or that where it can be had ("auto").

    Raises:
        ValueError: "fused", and the operator cannot be had here; the message says why.
    """
    if name == "torch":
        return stream_attention
    try:
        if find_spec("ninja") is None:
            raise RuntimeError("ninja is not installed here: pip install 'specrt[torch-ops]'")
        from specrt.torch_ops import stream_attention as fused
        from specrt.torch_ops.stream_attention import check_device

        check_device(device.type)
    except RuntimeError as error:
        if name == "fused":
            raise ValueError(f"there is no fused attention: {error}") from None
        log.info("plain attention of streams: %s", error)
        return stream_attention
    return fused

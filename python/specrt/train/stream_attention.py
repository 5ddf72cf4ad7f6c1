"""Attention of streams: over the main path up to their position, and over the streams before them.

The streams of a position do not see those of another. Shape letters: b sequences, h / g query / kv
heads, p positions with streams, s streams of each, t main positions, e head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor


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

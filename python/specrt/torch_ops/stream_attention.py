"""The fused form of `specrt.train.stream_attention`: one operator with a gradient of its own.

It keeps neither scores nor weights for the backward pass, only the log-sum-exp of each query.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from specrt.torch_ops.library import load_library


def stream_attention(
    q: Tensor,
    main_k: Tensor,
    main_v: Tensor,
    stream_k: Tensor,
    stream_v: Tensor,
    rows: Tensor,
    scale: float,
) -> Tensor:
    """Attended values (b, h, p, s, e) of streams, in float32, or float64 if that goes in.

    Args:
        q: queries (b, h, p, s, e).
        main_k: keys (b, g, t, e) of the main path.
        main_v: values (b, g, t, e) of the main path.
        stream_k: keys (b, g, p, s, e) of the streams.
        stream_v: values (b, g, p, s, e) of the streams.
        rows: the main position (b, p) of each group of streams, which see up to there.
        scale: of the products of queries and keys.

    Raises:
        RuntimeError: the kernels cannot be compiled here, or have none for this device.
    """
    check_device(q.device.type)
    parts = (q, main_k, main_v, stream_k, stream_v)
    wide = torch.float64 if any(one.dtype == torch.float64 for one in parts) else torch.float32
    out: Tensor = torch.ops.specrt.stream_attention(
        *(one.to(wide).contiguous() for one in parts), rows.contiguous(), scale
    )[0]
    return out


@cache
def check_device(device: str) -> None:
    """Compile the kernels unless they are. Raise RuntimeError if a device has none."""
    devices = _registered()
    if device not in devices:
        raise RuntimeError(
            f"specrt.torch_ops was compiled for {', '.join(devices)}, not for {device}; "
            "kernels for cuda need a PyTorch with CUDA, and nvcc"
        )


@cache
def _registered() -> tuple[str, ...]:
    """Compile and register the operator with its gradient; the devices that have kernels."""
    library = load_library()
    torch.library.register_autograd(
        "specrt::stream_attention", _backward, setup_context=_keep_for_backward
    )
    return tuple(library.devices())


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, d_out: Tensor, _d_log_sum: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of queries, keys and values; nobody outside reads the log-sum-exp."""
    ours: tuple[Tensor, ...] = torch.ops.specrt.stream_attention_backward(
        d_out, *ctx.saved_tensors, ctx.scale
    )
    return *ours, None, None

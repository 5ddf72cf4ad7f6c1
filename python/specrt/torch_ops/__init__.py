"""PyTorch operators of specrt over kernels that are compiled at first use (extra `torch-ops`)."""

from specrt.torch_ops.stream_attention import stream_attention

__all__ = ["stream_attention"]

"""Lays a fused graph's matrices out as CUDA kernels read them, or says why they cannot."""

from dataclasses import replace

from specrt.build.config import ModelConfig
from specrt.build.errors import BuildError
from specrt.build.graph import (
    PLAIN_PAIRS,
    Arrangement,
    DType,
    Epilogue,
    Graph,
    Kind,
    Layout,
    Op,
    Tensor,
    Value,
    Weight,
)

HEAD_DIMS = (64, 96, 128)


def _check(config: ModelConfig, dtype: DType) -> None:
    """Raise BuildError for a model that has no CUDA kernels."""
    if dtype is not DType.BF16:
        raise BuildError(f"CUDA engines hold bf16, not {dtype.value}; build with --dtype bf16")
    if config.head_dim not in HEAD_DIMS:
        known = ", ".join(map(str, HEAD_DIMS))
        raise BuildError(
            f"head_dim {config.head_dim}: CUDA kernels exist for {known}; use --backend cpu"
        )
    if config.ffn % PLAIN_PAIRS:
        raise BuildError(
            f"a feed-forward width of {config.ffn}: CUDA kernels need a multiple of {PLAIN_PAIRS}; "
            "use --backend cpu"
        )


def _pair_stride(op: Op, tensor: Weight, rotated: set[Value], config: ModelConfig) -> int:
    """How far apart the outputs are that must meet in a tile."""
    if op.epilogue is Epilogue.SWIGLU:
        return tensor.parts[0].rows
    return config.head_dim // 2 if op.out in rotated else PLAIN_PAIRS


def tiled(graph: Graph, config: ModelConfig, dtype: DType) -> Graph:
    """Pack every matrix in tiles: both halves of a head in one, gate and up in one.

    Raises BuildError, naming what it is, if CUDA kernels cannot run the model.
    """
    _check(config, dtype)
    rotated = {op.inputs[0] for op in graph.ops if op.kind is Kind.ROPE_KV}

    def laid_out(op: Op) -> Tensor | None:
        tensor = op.tensor
        if not isinstance(tensor, Weight) or tensor.layout is not Layout.PANELS16:
            return tensor
        stride = _pair_stride(op, tensor, rotated, config)
        return replace(
            tensor,
            layout=Layout.TILES16X32,
            arrangement=Arrangement.STACKED,
            pair_stride=stride,
        )

    return replace(graph, ops=tuple(replace(op, tensor=laid_out(op)) for op in graph.ops))

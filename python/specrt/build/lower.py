"""Turns a fused graph into the plan of an engine: numbered tensors, buffers and ops."""

from collections.abc import Mapping
from dataclasses import dataclass

from specrt.build.buffers import assign
from specrt.build.config import ModelConfig
from specrt.build.engine_file import (
    NONE,
    OP_KINDS,
    BufferRecord,
    KvRecord,
    OpRecord,
    Plan,
    TensorRecord,
)
from specrt.build.graph import DType, Epilogue, Graph, Kind, Missing, Op, Section, Tensor

_WITHOUT_OUT = (Kind.KEEP_FEATURES, Kind.PLAN_STREAMS)
MISSING = (Missing.MASK, Missing.LAST, Missing.ESTIMATES)
EPILOGUES = (Epilogue.STORE, Epilogue.ADD, Epilogue.SWIGLU, Epilogue.SILU_ADD)


@dataclass(frozen=True)
class Lowered:
    """A plan, with the graph's tensors and buffer names in the order of its tables."""

    plan: Plan
    tensors: tuple[Tensor, ...]
    buffer_names: tuple[str, ...]


def _op_record(op: Op, tensors: Mapping[Tensor, int], buffers: Mapping[str, int]) -> OpRecord:
    if op.kind.value not in OP_KINDS or len(op.inputs) > 2:
        raise AssertionError(f"no pass has fused the op that makes {op.out.name}")
    ids = [buffers[value.name] for value in op.inputs] + [NONE, NONE]
    number = EPILOGUES.index(op.epilogue) if op.kind is Kind.LINEAR else op.heads or op.column
    more = [tensors[vector] + 1 for vector in op.vectors] + [0, 0]
    if op.kind is Kind.LOAD_FEATURES:
        more[0] = MISSING.index(op.missing)
    elif op.kind is Kind.KEEP_FEATURES:
        more[0] = op.ahead
    return OpRecord(
        kind=op.kind.value,
        inputs=(ids[0], ids[1]),
        out=NONE if op.kind in _WITHOUT_OUT else buffers[op.out.name],
        tensor=NONE if op.tensor is None else tensors[op.tensor],
        kv=NONE if op.cache is None else op.cache,
        integers=(number, more[0], more[1], 0),
        reals=(op.real, 0.0),
        rows=op.rows.value,
        draft=op.draft,
    )


def _feature_cols(graph: Graph, config: ModelConfig) -> int:
    if config.kept is not None or config.kept_layers:
        kept = config.kept.layers if config.kept else len(config.kept_layers)
        return kept * config.width
    kinds = Kind.KEEP_FEATURES, Kind.LOAD_FEATURES
    return max((op.column + op.out.cols for op in graph.ops if op.kind in kinds), default=0)


def lower(
    graph: Graph, config: ModelConfig, dtype: DType, backend: str, token_table: bytes = b""
) -> Lowered:
    """Assign buffers and number everything. Values of one shape and place share a buffer."""
    records: dict[BufferRecord, int] = {}
    names: list[str] = []
    buffers: dict[str, int] = {}
    for value, offset in sorted(assign(graph).items(), key=lambda item: (item[1], item[0].name)):
        record = BufferRecord(offset, value.dtype, value.cols)
        if record not in records:
            records[record] = len(records)
            names.append(value.name.rsplit(".", 1)[-1])
        buffers[value.name] = records[record]
    tensors: dict[Tensor, int] = {}
    for op in graph.ops:
        for tensor in op.tensors:
            tensors.setdefault(tensor, len(tensors))
    plan = Plan(
        backend=backend,
        dtype=dtype,
        vocab=config.vocab,
        context=config.context,
        eos=config.eos,
        tensors=tuple(
            TensorRecord(t.dtype, t.layout, t.rows, t.cols, t.pair_stride) for t in tensors
        ),
        buffers=tuple(records),
        caches=tuple(KvRecord(c.kv_heads, c.head_dim, c.dtype, c.window) for c in graph.caches),
        ops=tuple(_op_record(op, tensors, buffers) for op in graph.ops),
        logits_buffer=buffers[graph.ops[-1].out.name],
        token_table=token_table,
        mask_token=config.mask_token,
        feature_cols=_feature_cols(graph, config),
        streams=config.streaming.streams if config.streaming else 0,
        shifted_streams=config.streaming is not None and config.streaming.shifted,
        head_begin=next(i for i, op in enumerate(graph.ops) if op.section is Section.HEAD),
    )
    return Lowered(plan, tuple(tensors), tuple(names))

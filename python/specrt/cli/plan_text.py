"""A plan in words: one line for every op, equal layers once."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from specrt.build.engine_file import NONE, EngineHeader, OpRecord
from specrt.printable import printable

_LAYER = re.compile(r"^layers\.(\d+)\.")
_EPILOGUES = ("", "added to the residual", "then SwiGLU")
_SECTION_HEAD = "head (rows whose logits are wanted)"


@dataclass(frozen=True)
class OpText:
    """An op in words; `section` is "layer N", "head", or "" for what comes before the layers."""

    section: str
    text: str


def _tensor_name(header: EngineHeader, tensor: int) -> str:
    names = header.meta.get("tensors")
    if isinstance(names, list) and tensor < len(names):
        return printable(names[tensor])
    return f"tensor {tensor}"


def _heads(header: EngineHeader, op: OpRecord) -> str:
    cache = header.plan.caches[op.kv]
    return f"{op.integers[0]} query heads, {cache.kv_heads} key heads of {cache.head_dim}"


def _tensor(header: EngineHeader, op: OpRecord) -> str:
    record = header.plan.tensors[op.tensor]
    name = _LAYER.sub("", _tensor_name(header, op.tensor))
    return f"{name} ({record.rows} x {record.cols} {record.dtype.value})"


def _detail(header: EngineHeader, op: OpRecord) -> str:
    if op.kind == "attention":
        window = header.plan.caches[op.kv].window
        return f"{_heads(header, op)}, scale {op.reals[0]:.4g}" + (
            f", window {window}" if window else ""
        )
    if op.kind == "rope_kv":
        norm = ", queries and keys normalised" if op.integers[1] else ""
        return f"{_heads(header, op)}{norm}; keys and values into the cache"
    if op.kind == "keep_features":
        return f"the residual, from column {op.integers[0]} of the features on"
    if op.kind == "load_features":
        return f"from column {op.integers[0]} on; where there are none {_tensor(header, op)}"
    detail = _tensor(header, op) if op.tensor != NONE else ""
    if op.kind == "rms_norm":
        return f"{detail}, eps {op.reals[0]:.0e}"
    if op.kind == "linear" and op.integers[1]:
        detail += " plus bias"
    epilogue = _EPILOGUES[op.integers[0]] if op.kind == "linear" else ""
    return f"{detail}, {epilogue}" if epilogue else detail


def _section(header: EngineHeader, index: int, op: OpRecord) -> str:
    if index >= header.plan.head_begin:
        return _SECTION_HEAD
    if op.kv != NONE:
        return f"layer {op.kv}"
    if op.kind == "keep_features":
        return "kept for a drafter"
    name = _tensor_name(header, op.tensor) if op.tensor != NONE else ""
    layer = _LAYER.match(name)
    return f"layer {layer[1]}" if layer else ""


def op_texts(header: EngineHeader) -> list[OpText]:
    """Every op of a validated plan, in order."""
    return [
        OpText(_section(header, i, op), f"{op.kind:<13} {_detail(header, op)}")
        for i, op in enumerate(header.plan.ops)
    ]


def _title(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last.removeprefix('layer ')}, each"


def plan_lines(ops: Iterable[OpText]) -> list[str]:
    """The ops as text; layers that are alike are printed once."""
    sections = [
        (name, [op.text for op in group]) for name, group in groupby(ops, lambda op: op.section)
    ]
    lines: list[str] = []
    for texts, group in groupby(sections, lambda section: section[1]):
        names = [name for name, _ in group]
        if names[0]:
            lines.append(f"{_title(names[0], names[-1])}:")
        lines += [f"  {text}" for text in texts]
    return lines

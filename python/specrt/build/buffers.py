"""Gives every value of a graph a place in the arena, so that values alive together never meet.

Offsets are bytes per row of capacity, see BufferRecord in cpp/engine/format.h.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from specrt.build.graph import Graph, Value

ROW_ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """Indices of the first op that writes a value and the last that reads or writes it."""

    first: int
    last: int

    def meets(self, other: "Lifetime") -> bool:
        """Whether some op touches both; the input and the output of one op meet."""
        return self.first <= other.last and other.first <= self.last


def row_bytes(value: Value) -> int:
    """Bytes of a padded row."""
    size = value.cols * value.dtype.size
    return -(-size // ROW_ALIGNMENT) * ROW_ALIGNMENT


def lifetimes(graph: Graph) -> dict[Value, Lifetime]:
    """Lifetime of every value. A value that a later op accumulates into stays the same value."""
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for i, op in enumerate(graph.ops):
        first.setdefault(op.out, i)
        for value in (*op.inputs, op.out):
            last[value] = i
    return {value: Lifetime(first[value], last[value]) for value in first}


def _lowest_gap(size: int, taken: list[tuple[int, int]]) -> int:
    """Lowest offset at which `size` bytes avoid all [begin, end) of `taken`."""
    offset = 0
    for begin, end in sorted(taken):
        if offset + size <= begin:
            break
        offset = max(offset, end)
    return offset


def assign(graph: Graph) -> Mapping[Value, int]:
    """Offset of every value, a multiple of 64; large and early values first."""
    lives = lifetimes(graph)
    order = sorted(lives, key=lambda v: (-row_bytes(v), lives[v].first, v.name))
    offsets: dict[Value, int] = {}
    for value in order:
        taken = [
            (offset, offset + row_bytes(other))
            for other, offset in offsets.items()
            if lives[other].meets(lives[value])
        ]
        offsets[value] = _lowest_gap(row_bytes(value), taken)
    return offsets

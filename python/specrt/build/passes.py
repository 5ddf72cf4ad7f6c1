"""Rewrites a graph into the ops that an engine has. Every pass takes and gives a valid graph."""

from collections import Counter
from dataclasses import dataclass, replace

from specrt.build.graph import Arrangement, Epilogue, Graph, Kind, Op, Value, Weight


@dataclass(frozen=True)
class _Links:
    """Who writes a value, and how many reads it has."""

    made: dict[Value, Op]
    uses: Counter[Value]

    def is_private_linear(self, value: Value) -> bool:
        """Whether a plain LINEAR makes `value` for one reader."""
        op = self.made[value]
        plain = op.kind is Kind.LINEAR and op.epilogue is Epilogue.STORE
        return plain and self.uses[value] == 1

    def common_linears(self, values: tuple[Value, ...]) -> list[Op]:
        """Private LINEARs that make `values` from one input; none if that is not so."""
        linears = [self.made[value] for value in values]
        private = all(self.is_private_linear(value) for value in values)
        alike = len({(op.inputs, len(op.vectors)) for op in linears}) == 1
        return linears if private and alike else []


def _links(graph: Graph) -> _Links:
    uses = Counter(value for op in graph.ops for value in op.inputs)
    return _Links({op.out: op for op in graph.ops}, uses)


def _joined(name: str, linears: list[Op], arrangement: Arrangement) -> Weight:
    return _merged(name, [t for op in linears if isinstance(t := op.tensor, Weight)], arrangement)


def _merged(name: str, weights: list[Weight], arrangement: Arrangement) -> Weight:
    parts = tuple(part for weight in weights for part in weight.parts)
    return replace(weights[0], name=name, parts=parts, arrangement=arrangement)


def _replaced(graph: Graph, dropped: set[Value], new: dict[Value, tuple[Op, ...]]) -> Graph:
    """Drop the ops that make `dropped`; `new` replaces the op that makes its key."""
    kept = (op for op in graph.ops if op.out not in dropped)
    return replace(graph, ops=tuple(made for op in kept for made in new.get(op.out, (op,))))


def fuse_qkv(graph: Graph) -> Graph:
    """Project queries, keys and values with one matrix whose rows are theirs in that order."""
    links = _links(graph)
    dropped: set[Value] = set()
    new: dict[Value, tuple[Op, ...]] = {}
    for op in graph.ops:
        separate = op.kind is Kind.ROPE_KV and len(op.inputs) == 4
        linears = links.common_linears(op.inputs[:3]) if separate else []
        if linears:
            name = op.out.name + "kv"
            weight = _joined(name, linears, Arrangement.STACKED)
            qkv = replace(op.inputs[0], name=name, cols=weight.rows)
            biases = [bias for linear in linears for bias in linear.vectors]
            bias = (_merged(name + "_bias", biases, Arrangement.JOINED),) if biases else ()
            projection = Op(Kind.LINEAR, linears[0].inputs, qkv, weight, vectors=bias)
            dropped |= {linear.out for linear in linears}
            new[op.out] = (projection, replace(op, inputs=(qkv, op.inputs[3])))
    return _replaced(graph, dropped, new)


def fuse_swiglu(graph: Graph) -> Graph:
    """Compute gate and up with one matrix that alternates their panels, and SwiGLU with it."""
    links = _links(graph)
    dropped: set[Value] = set()
    new: dict[Value, tuple[Op, ...]] = {}
    for op in graph.ops:
        linears = links.common_linears(op.inputs) if op.kind is Kind.SWIGLU else []
        if linears and not linears[0].vectors:
            weight = _joined(op.out.name + "_gate_up", linears, Arrangement.INTERLEAVED)
            inputs = linears[0].inputs
            dropped |= {linear.out for linear in linears}
            new[op.out] = (Op(Kind.LINEAR, inputs, op.out, weight, epilogue=Epilogue.SWIGLU),)
    return _replaced(graph, dropped, new)


def fuse_add(graph: Graph) -> Graph:
    """Let a LINEAR add to the residual in place: the sum takes over the residual's value."""
    links = _links(graph)
    last_use = {value: i for i, op in enumerate(graph.ops) for value in op.inputs}
    renamed: dict[Value, Value] = {}
    result: list[Op] = []
    for i, op in enumerate(graph.ops):
        inputs = tuple(renamed.get(value, value) for value in op.inputs)
        if (
            op.kind is Kind.ADD
            and links.is_private_linear(op.inputs[1])
            and last_use[op.inputs[0]] == i
        ):
            renamed[op.out] = inputs[0]
            written = (j for j in reversed(range(len(result))) if result[j].out == op.inputs[1])
            at = next(written)
            result.append(replace(result.pop(at), out=inputs[0], epilogue=Epilogue.ADD))
        else:
            result.append(replace(op, inputs=inputs, out=renamed.get(op.out, op.out)))
    return replace(graph, ops=tuple(result))


def fuse(graph: Graph) -> Graph:
    """All passes, in their order."""
    return fuse_add(fuse_swiglu(fuse_qkv(graph)))

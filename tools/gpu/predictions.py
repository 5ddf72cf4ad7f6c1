"""What every number is expected to be, written down before it is measured.

For one H200, 4.8 TB/s by its data sheet, and for the kernels as they are, not as they are planned.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpu.results import Prediction

COPY = 4300.0  # GB/s of a device-to-device copy, bytes read and written
READ = 4400.0  # GB/s of reading alone
L2 = 5500.0  # GB/s from the L2 cache to all multiprocessors
ROWS = (1, 8, 16, 32, 64)
PROMPT_ROWS = (128, 256)
CONTEXTS = (128, 1024, 8192, 32768)
_KILOBYTES = (16, 32, 48, 64, 96, 128)
_BULK = {32: (2048,), 64: (2048, 4096), 96: (2048, 4096)}
_BULK |= {128: (2048, 4096, 8192), 192: (2048, 4096, 8192)}
_MULTIPROCESSORS = 132
_LATENCY_US = 1.0
_BOUNDARY_US = 2.3  # between two kernels of a graph: 1.3 of gap, 1 of ramp
_EFFICIENCY = 0.92  # of the copy bandwidth, inside of a matrix kernel
# Time of a matrix by rows, over that of one row: more tokens are read from L2 for every weight.
_ROW_FACTORS = {1: 1.0, 8: 1.0, 16: 1.03, 32: 1.15, 64: 1.5}


@dataclass(frozen=True)
class Shape:
    """A Llama: as tests/cuda/device/synthetic_model.cpp has it."""

    dim: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    def matrices(self) -> dict[str, int]:
        """Bytes of the matrices in bf16."""
        qkv = (self.heads + 2 * self.kv_heads) * self.head_dim
        elements = {
            "qkv": qkv * self.dim,
            "o": self.dim * self.heads * self.head_dim,
            "gate_up": 2 * self.ffn * self.dim,
            "down": self.ffn * self.dim,
            "head": self.vocab * self.dim,
        }
        return {name: 2 * count for name, count in elements.items()}

    def kv_bytes(self, positions: int) -> int:
        """Bytes of keys and values of one layer."""
        return 4 * self.kv_heads * self.head_dim * positions


SHAPES = {
    "8b": Shape(4096, 32, 14336, 32, 8, 128, 128256),
    "7b": Shape(4096, 32, 11008, 32, 32, 128, 32000),
    "1b": Shape(2048, 16, 8192, 32, 8, 64, 128256),
}
# Other kernels of a layer: two norms, rope, attention, its merge, and the boundaries between them.
_OTHERS_US = 5 * _BOUNDARY_US + 12.0


def _matrix_us(size: int, rows: int) -> float:
    return size / (COPY * _EFFICIENCY * 1e3) * _ROW_FACTORS[rows] + _BOUNDARY_US


def _prompt_us(size: int, rows: int) -> float:
    return size * (1 + rows / 64) / (L2 * 1e3) + _BOUNDARY_US


def _attention_us(size: int, rows: int) -> float:
    again = rows * size / 5e6 if rows > 8 else 0.0  # each row reads the cache again, from L2
    return 8.0 + size / 3e6 + again


def step_ms(shape: Shape, rows: int, context: int = 1024) -> float:
    """A step of the model."""
    sizes = shape.matrices()
    head = _matrix_us(sizes.pop("head"), rows)
    attention = _attention_us(shape.kv_bytes(context), rows) - 8.0
    layer = sum(_matrix_us(size, rows) for size in sizes.values()) + attention + _OTHERS_US
    return (shape.layers * layer + head + 20.0) / 1e3


def prompt_step_ms(shape: Shape, context: int) -> float:
    """A step of 256 rows of a prompt, without a head."""
    sizes = shape.matrices()
    del sizes["head"]
    attention = 4 * (_attention_us(shape.kv_bytes(context), 64) + _BOUNDARY_US)
    layer = sum(_prompt_us(size, 256) for size in sizes.values()) + attention + _OTHERS_US
    return shape.layers * layer / 1e3


def _floods() -> dict[str, Prediction]:
    table = {"ceiling.copy": Prediction(COPY, "GB/s", "published for this chip")}
    basis = f"bytes in flight each {_LATENCY_US} us, at most {READ:.0f}"
    for kilobytes in _KILOBYTES:
        flight = kilobytes * 1024 * _MULTIPROCESSORS / _LATENCY_US / 1e3
        for way in ("plain", "cp_async"):
            table[f"ceiling.{way}.k{kilobytes}"] = Prediction(min(READ, flight), "GB/s", basis)
    for kilobytes, copies in _BULK.items():
        flight = kilobytes * 1024 * _MULTIPROCESSORS / _LATENCY_US / 1e3
        for size in copies:
            name = f"ceiling.bulk.k{kilobytes}.b{size}"
            table[name] = Prediction(min(READ, flight), "GB/s", basis)
    return table


def _models() -> dict[str, Prediction]:
    table = {}
    for name in ("8b", "1b"):
        shape = SHAPES[name]
        for rows in ROWS:
            basis = "bytes at 92 % of a copy, and kernel boundaries"
            table[f"{name}.step.r{rows}"] = Prediction(step_ms(shape, rows), "ms", basis)
        basis = "4 steps of 256 rows, matrices by their reads from L2"
        table[f"{name}.prefill.t1024"] = Prediction(4 * prompt_step_ms(shape, 512), "ms", basis)
    for name, shape in SHAPES.items():
        for matrix, size in shape.matrices().items():
            for rows in ROWS:
                value = _matrix_us(size, rows)
                table[f"{name}.linear.{matrix}.r{rows}"] = Prediction(value, "us", "its bytes")
            if matrix == "head":
                continue
            basis = f"from L2 at {L2:.0f} GB/s: the weights, and the rows for every 64 outputs"
            for rows in PROMPT_ROWS:
                value = _prompt_us(size, rows)
                table[f"{name}.linear.{matrix}.r{rows}"] = Prediction(value, "us", basis)
    for name in ("8b", "7b"):
        for context in CONTEXTS:
            for rows in (1, 8, 64):
                value = _attention_us(SHAPES[name].kv_bytes(context), rows)
                key = f"{name}.attention.c{context}.r{rows}"
                table[key] = Prediction(value, "us", "8 us of two kernels, its bytes, L2 by rows")
    return table


def _small() -> dict[str, Prediction]:
    table = {
        "gap.stream": Prediction(2.1, "us", "published"),
        "gap.stream.pdl": Prediction(1.6, "us", "published gain of an early start"),
        "gap.graph": Prediction(1.3, "us", "published"),
        "gap.graph.pdl": Prediction(0.8, "us", "published gain of an early start"),
        "gap.graph_to_graph": Prediction(5.0, "us", "a guess"),
        "gap.host_launch": Prediction(8.0, "us", "a guess for 200 nodes"),
    }
    for choice, value in {"greedy": 8.0, "sampled": 25.0}.items():
        for rows in (1, 8, 64):
            basis = "one block a row, 100 GB/s of it"
            table[f"judge.{choice}.r{rows}"] = Prediction(value, "us", basis)
    for choice in ("top_k", "top_p", "min_p"):
        for rows in (1, 8, 64):
            basis = "passes over 128k logits at 5 us"
            table[f"judge.{choice}.r{rows}"] = Prediction(40.0, "us", basis)
    for name in ("columns", "rows", "alone", "zeros", "nothing"):
        table[f"mma.{name}"] = Prediction(0.0, "exceptions", "the contract needs it")
    table["pdl.stale"] = Prediction(0.0, "exceptions", "what griddepcontrol.wait promises")
    table["log.torn"] = Prediction(0.0, "exceptions", "release at system scope")
    table["cpu_cuda.logprob_error"] = Prediction(0.05, "nats", "bf16 sums in another order")
    table["cpu_cuda.gap_at_difference"] = Prediction(0.05, "nats", "only near ties differ")
    return table


def _streams() -> dict[str, Prediction]:
    target, draft = step_ms(SHAPES["8b"], 8), step_ms(SHAPES["1b"], 1)
    # Bytes add up; together they reach 85 % of a copy.
    together = (15.15e9 + target / draft * 2.5e9) / (0.85 * COPY * 1e6)
    return {
        "streams.target.alone": Prediction(target, "ms", "as 8b.step.r8"),
        "streams.draft.alone": Prediction(draft, "ms", "as 1b.step.r1"),
        "streams.target.together": Prediction(together, "ms", "their bytes at 85 % of a copy"),
        "streams.draft.together": Prediction(
            together * draft / target, "ms", "their bytes at 85 % of a copy"
        ),
    }


def predictions() -> dict[str, Prediction]:
    """All of them by the name of the reading."""
    return {**_floods(), **_models(), **_small(), **_streams(), **_peers()}


def _peers() -> dict[str, Prediction]:
    eager = {"8b": 22.0, "1b": 11.0}  # bound by Python and launches
    compiled = {"8b": 5.2, "1b": 1.2}
    table = {}
    for name in ("8b", "1b"):
        for rows in (1, 8):
            table[f"hf.{name}.eager.r{rows}"] = Prediction(eager[name], "ms", "launch bound")
            key = f"hf.{name}.compiled.r{rows}"
            table[key] = Prediction(compiled[name], "ms", "65-70 % of the bandwidth")
        table[f"hf.{name}.prefill.t1024"] = Prediction(
            32.0 if name == "8b" else 12.0, "ms", "compute at 600 TFLOP/s, launches"
        )
    return table

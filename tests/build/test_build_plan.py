"""The plan computes the model: its ops, run in NumPy from the written file, match the reference.

The interpreter places activations in one arena exactly as the runtime does, and fills the padding
of every row with rubbish, so that a wrong offset or a value that dies too early shows.
"""

from dataclasses import replace

import numpy as np
import pytest
from reference import llama
from reference.ops import bf16_values
from reference.tiny_llama import LLAMA3_SCALING, ConfigForm, Head, TinyLlama, write_tiny_llama
from specrt.build import build
from specrt.build.engine_file import read_header
from specrt.build.graph import DType, Layout
from specrt.build.pack import bf16_from_float, unpack_panels, unpack_tiles

TOKENS = [5, 17, 270, 3, 99, 100, 101, 0, 44, 263]
STORED = {DType.F32: np.dtype("<f4"), DType.BF16: np.dtype("<u2")}


def floats(stored):
    return bf16_values(stored) if stored.dtype == np.uint16 else stored


class Engine:
    """One run of an engine's ops over a whole sequence."""

    def __init__(self, path, rows):
        self.header = read_header(path)
        self.plan = self.header.plan
        self.data = path.read_bytes()
        self.rows = rows
        ends = [b.offset + self.row_bytes(b) for b in self.plan.buffers]
        self.arena = np.full(max(ends) * rows, 0xFF, np.uint8)
        self.caches = {}

    @staticmethod
    def row_bytes(buffer):
        return -(-buffer.cols * buffer.dtype.size // 64) * 64

    def raw(self, index):
        buffer = self.plan.buffers[index]
        begin, size = buffer.offset * self.rows, self.row_bytes(buffer)
        return self.arena[begin : begin + size * self.rows].reshape(self.rows, size)

    def get(self, index):
        buffer = self.plan.buffers[index]
        used = np.ascontiguousarray(self.raw(index)[:, : buffer.cols * buffer.dtype.size])
        return floats(used.view(STORED[buffer.dtype]))

    def put(self, index, values):
        buffer = self.plan.buffers[index]
        assert values.shape == (self.rows, buffer.cols)
        values = np.ascontiguousarray(values, np.float32)
        stored = values if buffer.dtype is DType.F32 else bf16_from_float(values)
        self.raw(index)[:] = 0xFF
        self.raw(index)[:, : buffer.cols * buffer.dtype.size] = stored.view(np.uint8)

    def tensor(self, index):
        record = self.plan.tensors[index]
        begin = self.header.tensor_offsets[index]
        stored = np.frombuffer(self.data[begin : begin + record.size], STORED[record.dtype])
        if record.layout is Layout.PANELS16:
            return floats(unpack_panels(stored, record.rows, record.cols))
        if record.layout is Layout.TILES16X32:
            return floats(unpack_tiles(stored, record.rows, record.cols, record.pair_stride))
        return floats(stored).reshape(record.rows, record.cols)

    def embed(self, op, tokens):
        self.put(op.out, self.tensor(op.tensor)[tokens])

    def rope_angles(self, op, _):
        angles = np.arange(self.rows)[:, None] * self.tensor(op.tensor)
        self.put(op.out, np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * op.reals[0])

    def rms_norm(self, op, _):
        x = self.get(op.inputs[0])
        mean = np.mean(x * x, axis=1, keepdims=True)
        self.put(op.out, x / np.sqrt(mean + op.reals[0]) * self.tensor(op.tensor))

    def linear(self, op, _):
        y = self.get(op.inputs[0]) @ self.tensor(op.tensor).T
        if op.integers[0] == 1:
            y = y + self.get(op.out)
        if op.integers[0] == 2:
            tiled = self.plan.tensors[op.tensor].layout is Layout.TILES16X32
            pairs = y.reshape(self.rows, -1, 2, y.shape[1] // 2 if tiled else 16)
            product = pairs[:, :, 0] / (1 + np.exp(-pairs[:, :, 0])) * pairs[:, :, 1]
            product = product.reshape(self.rows, -1)
            cols = self.plan.buffers[op.out].cols
            assert not product[:, cols:].any()
            y = product[:, :cols]
        self.put(op.out, y)

    def rope_kv(self, op, _):
        cache, heads = self.plan.caches[op.kv], op.integers[0]
        half = cache.head_dim // 2
        qkv = self.get(op.inputs[0]).reshape(self.rows, -1, cache.head_dim)
        angles = self.get(op.inputs[1])[:, None]
        cos, sin = angles[..., :half], angles[..., half:]
        a, b = qkv[..., :half], qkv[..., half:]
        rotated = np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
        keys = slice(heads, heads + cache.kv_heads)
        self.put(op.out, rotated[:, :heads].reshape(self.rows, -1))
        self.caches[op.kv] = rotated[:, keys], qkv[:, keys.stop :]

    def attention(self, op, _):
        k, v = (
            np.repeat(part, op.integers[0] // part.shape[1], axis=1) for part in self.caches[op.kv]
        )
        q = self.get(op.inputs[0]).reshape(k.shape)
        scores = np.einsum("ihe,jhe->hij", q, k) * op.reals[0]
        scores += np.triu(np.full((self.rows, self.rows), -np.inf), 1)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        self.put(op.out, np.einsum("hij,jhe->ihe", weights, v).reshape(self.rows, -1))

    def run(self, tokens):
        for op in self.plan.ops:
            getattr(self, op.kind)(op, tokens)
        return self.get(self.plan.logits_buffer)


def logits(path):
    return Engine(path, len(TOKENS)).run(TOKENS)


MODELS = {
    "odd": TinyLlama(),
    "untied": TinyLlama(head=Head.UNTIED),
    "llama3": TinyLlama(rope_scaling=LLAMA3_SCALING, rope_theta=500.0),
    "llama3_old_form": TinyLlama(
        rope_scaling=LLAMA3_SCALING, rope_theta=500.0, config_form=ConfigForm.TRANSFORMERS_4
    ),
    "one_kv_head": TinyLlama(hidden=35, heads=3, kv_heads=1, head_dim=6, ffn=17, layers=1),
    "no_groups": TinyLlama(hidden=33, heads=2, kv_heads=2, head_dim=16, ffn=16, vocab=320),
    "bf16": TinyLlama(dtype="bf16", head=Head.UNTIED),
    "shards": TinyLlama(shards=3, layers=2),
}


@pytest.mark.parametrize("name", MODELS)
def test_f32_plan_matches_the_reference(name, tmp_path):
    model = write_tiny_llama(tmp_path / "model", MODELS[name])
    bundle = build(model, out=tmp_path / "bundle", dtype="f32", progress=False, tune=False)
    expected = llama.forward(llama.load(model), llama.chain(TOKENS)).logits
    np.testing.assert_allclose(logits(bundle / "target.engine"), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@pytest.mark.parametrize("head", Head)
def test_bf16_plan_is_near_the_reference(head, backend, tmp_path):
    tiny = TinyLlama(dtype="bf16", head=head)
    if backend == "cuda":  # the smallest heads that it has, an ffn of whole pairs
        tiny = replace(tiny, head_dim=64, ffn=72)
    model = write_tiny_llama(tmp_path / "model", tiny)
    bundle = build(model, out=tmp_path / "bundle", backend=backend, progress=False, tune=False)
    expected = llama.forward(llama.load(model), llama.chain(TOKENS)).logits
    engine = Engine(bundle / "target.engine", len(TOKENS))
    assert engine.plan.dtype is DType.BF16
    # Logits have a standard deviation of 3; rounding activations to 8 bits moves them a little.
    assert np.abs(engine.run(TOKENS) - expected).max() < 0.25


def test_logits_survive_rubbish_in_unused_memory(tmp_path):
    model = write_tiny_llama(tmp_path / "model", TinyLlama())
    path = build(model, out=tmp_path / "bundle", progress=False, tune=False) / "target.engine"
    zeroed = Engine(path, len(TOKENS))
    zeroed.arena[:] = 0
    np.testing.assert_array_equal(zeroed.run(TOKENS), logits(path))

"""Passes and buffers: what a fused Llama is made of, and that live values never share memory."""

import math
from dataclasses import replace

import numpy as np
import pytest
from specrt.build.architectures import GRAPHS
from specrt.build.buffers import assign, lifetimes, row_bytes
from specrt.build.config import Llama3Scaling, ModelConfig, Rope
from specrt.build.graph import DType, Epilogue, Graph, Kind, Op, Value
from specrt.build.lower import lower
from specrt.build.passes import fuse
from specrt.build.rope import inverse_frequencies

CONFIG = ModelConfig(
    architecture="llama",
    vocab=300,
    width=50,
    ffn=77,
    layers=3,
    heads=6,
    kv_heads=2,
    head_dim=10,
    norm_eps=1e-5,
    context=64,
    tied=True,
    rope=Rope(10000.0, None),
    eos=(3, 0),
)


def fused(config=CONFIG, dtype=DType.BF16, kind="llama"):
    return fuse(GRAPHS[kind](config, dtype))


def test_fused_ops():
    layer = ["rms_norm", "linear", "rope_kv", "attention", "linear"]
    layer += ["rms_norm", "linear", "linear"]
    kinds = [op.kind.value for op in fused().ops]
    assert kinds == ["embed", "rope_angles", *(layer * 3), "rms_norm", "linear"]
    epilogues = [op.epilogue for op in fused().ops if op.kind is Kind.LINEAR]
    block = [Epilogue.STORE, Epilogue.ADD, Epilogue.SWIGLU, Epilogue.ADD]
    assert epilogues == [*(block * 3), Epilogue.STORE]


def test_fused_weights():
    shapes = {op.tensor.name: (op.tensor.rows, op.tensor.cols) for op in fused().ops if op.tensor}
    assert shapes["layers.1.qkv"] == (100, 50)
    assert shapes["layers.1.ffn_gate_up"] == (160, 50)
    assert shapes["layers.1.down"] == (50, 77)
    assert shapes["embed"] == (300, 50)
    assert shapes["inv_freq"] == (1, 5)


def integers_of(kind, op):
    plan = lower(fused(kind=kind), CONFIG, DType.BF16, "cpu").plan
    return plan, next(each.integers for each in plan.ops if each.kind == op)


def test_biases_are_one_row():
    [bias] = {op.vectors for op in fused(kind="qwen2").ops if op.out.name == "layers.1.qkv"}.pop()
    assert (bias.name, bias.rows, bias.cols) == ("layers.1.qkv_bias", 1, 100)
    assert [part.name[-6:] for part in bias.parts] == ["q_bias", "k_bias", "v_bias"]
    plan, (epilogue, number, *rest) = integers_of("qwen2", "linear")
    assert (epilogue, rest) == (0, [0, 0])
    assert (plan.tensors[number - 1].cols, plan.tensors[number - 1].dtype) == (100, DType.F32)
    assert integers_of("llama", "linear")[1] == (0, 0, 0, 0)


def test_gains_of_heads():
    plan, (heads, *gains, unused) = integers_of("qwen3", "rope_kv")
    assert (heads, unused, len({*gains})) == (6, 0, 2)
    assert {plan.tensors[gain - 1].cols for gain in gains} == {10}
    assert {op.reals[0] for op in plan.ops if op.kind == "rope_kv"} == {1e-5}
    assert integers_of("llama", "rope_kv")[1] == (6, 0, 0, 0)


def test_windows_are_of_caches():
    config = replace(CONFIG, windows=(0, 7, 9))
    for kind in GRAPHS:
        plan = lower(fused(config, kind=kind), config, DType.BF16, "cpu").plan
        assert [cache.window for cache in plan.caches] == [0, 7, 9]


def test_biased_gate_and_up_stay_apart():
    ops = fused(kind="qwen2").ops
    h, gate, up, out = (Value(name, 16, DType.F32) for name in ("h", "gate", "up", "out"))
    linear = next(op for op in ops if op.vectors)
    made = [replace(linear, inputs=(h,), out=value) for value in (gate, up)]
    graph = Graph((Op(Kind.EMBED, (), h), *made, Op(Kind.SWIGLU, (gate, up), out)), ())
    assert fuse(graph) == graph


def test_residual_is_one_value():
    residuals = [op.out for op in fused().ops if op.epilogue is Epilogue.ADD]
    assert set(residuals) == {fused().ops[0].out}


def test_values_with_other_readers_are_not_fused():
    x, y, z = (Value(name, 8, DType.F32) for name in "xyz")
    weight = fused().ops[-1].tensor
    linear = Op(Kind.LINEAR, (x,), y, weight)
    twice = Graph((Op(Kind.EMBED, (), x), linear, Op(Kind.ADD, (x, y), z)), ())
    read_again = Graph((*twice.ops, Op(Kind.ADD, (z, x), Value("w", 8, DType.F32))), ())
    assert [op.kind for op in fuse(twice).ops] == [Kind.EMBED, Kind.LINEAR]
    assert fuse(read_again) == read_again


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("unfused", [False, True])
def test_live_values_never_share_memory(dtype, unfused):
    graph = GRAPHS["llama"](CONFIG, dtype) if unfused else fused(dtype=dtype)
    offsets, lives = assign(graph), lifetimes(graph)
    assert all(offset % 64 == 0 and offset >= 0 for offset in offsets.values())
    values = list(offsets)
    for i, a in enumerate(values):
        for b in values[:i]:
            apart = offsets[a] + row_bytes(a) <= offsets[b]
            apart |= offsets[b] + row_bytes(b) <= offsets[a]
            assert apart or not lives[a].meets(lives[b])


def test_every_value_is_written_before_it_is_read():
    written = set()
    for op in fused().ops:
        assert set(op.inputs) <= written
        assert op.out not in op.inputs
        written.add(op.out)


def test_buffers_do_not_grow_with_depth():
    deep = ModelConfig(**{**vars(CONFIG), "layers": 40})
    plans = [lower(fused(c), c, DType.BF16, "cpu").plan for c in (CONFIG, deep)]
    assert plans[0].buffers == plans[1].buffers
    assert plans[1].head_begin == len(plans[1].ops) - 2
    assert plans[1].buffers[plans[1].logits_buffer].cols == CONFIG.vocab


def test_unfused_graph_has_no_plan():
    with pytest.raises(AssertionError, match="fused"):
        lower(GRAPHS["llama"](CONFIG, DType.F32), CONFIG, DType.F32, "cpu")


def test_inverse_frequencies():
    plain = inverse_frequencies(Rope(500000.0, None), 64).astype(np.float64)
    exact = 500000.0 ** -(np.arange(32) / 32)
    np.testing.assert_allclose(plain, exact, rtol=2e-6)
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 8192)
    scaled = inverse_frequencies(Rope(500000.0, scaling), 64).astype(np.float64)
    wavelength = 2 * math.pi / exact
    np.testing.assert_array_equal(scaled[wavelength < 2000], plain[wavelength < 2000])
    np.testing.assert_allclose(scaled[wavelength > 8200], plain[wavelength > 8200] / 8, rtol=1e-7)
    between = (wavelength > 2100) & (wavelength < 8100)
    assert between.any()
    assert (scaled[between] < plain[between]).all()
    assert (scaled[between] > plain[between] / 8).all()

"""The forward of Llama and its relatives against transformers, and masks against plain chains."""

from pathlib import Path

import numpy as np
import pytest

from .llama import BF16_MATMULS, BF16_MATMULS_AND_CACHE, Numerics, Row, chain, forward, load, tree
from .tiny_llama import LLAMA3_SCALING, ConfigForm, Head, TinyLlama, write_tiny_llama
from .tolerances import assert_close

TOKENS = [(7 * i * i + 3 * i) % 263 for i in range(100)]

MODELS = {
    "tied": TinyLlama(),
    "untied, llama3": TinyLlama(
        head=Head.UNTIED, rope_scaling=LLAMA3_SCALING, rope_theta=500000.0, seed=2
    ),
    "bf16, sharded, old config": TinyLlama(
        hidden=40,
        heads=5,
        kv_heads=1,
        head_dim=8,
        ffn=52,
        vocab=301,
        dtype="bf16",
        shards=3,
        config_form=ConfigForm.TRANSFORMERS_4,
        rope_scaling=LLAMA3_SCALING,
        seed=3,
    ),
    "no groups": TinyLlama(
        hidden=30,
        heads=3,
        kv_heads=3,
        head_dim=12,
        layers=2,
        ffn=44,
        vocab=263,
        head=Head.UNTIED,
        shards=2,
        rope_theta=1000.0,
        config_form=ConfigForm.TRANSFORMERS_4,
        seed=4,
    ),
    "mistral": TinyLlama(architecture="mistral", window=21, head=Head.UNTIED, seed=5),
    "qwen2": TinyLlama(architecture="qwen2", window=30, full_layers=1, seed=6),
    "qwen3": TinyLlama(architecture="qwen3", head_dim=14, window=16, full_layers=2, seed=7),
}

# The classes of transformers 5.23.0 with torch 2.13.0, weights and sums in float64: argmax of
# the last eight rows, first three logits of the last row.
TRANSFORMERS = {
    "tied": ([86, 69, 15, 209, 102, 141, 179, 84], [-1.573409, -3.838769, -5.662842]),
    "untied, llama3": ([275, 20, 83, 203, 226, 89, 87, 129], [5.947138, -5.13602, -2.151062]),
    "bf16, sharded, old config": (
        [295, 13, 18, 63, 248, 32, 44, 33],
        [5.487249, 3.685236, -1.254475],
    ),
    "no groups": ([259, 46, 184, 83, 85, 118, 184, 26], [-0.257029, 0.759182, -1.528519]),
    "mistral": ([221, 93, 113, 143, 147, 272, 241, 17], [0.287645, 0.985184, 2.655518]),
    "qwen2": ([86, 163, 163, 24, 217, 70, 84, 70], [-2.899205, 2.175322, 5.05931]),
    "qwen3": ([79, 152, 259, 77, 78, 141, 76, 261], [-2.001818, 0.786721, 0.378624]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the plain model once."""
    return write_tiny_llama(tmp_path_factory.mktemp("tiny"), TinyLlama())


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_transformers(name: str, tmp_path: Path) -> None:
    """Every form of folder gives the logits that transformers computes from it."""
    folder = write_tiny_llama(tmp_path, MODELS[name])
    logits = forward(load(folder), chain(TOKENS)).logits
    argmax, first = TRANSFORMERS[name]
    assert logits[-8:].argmax(axis=-1).tolist() == argmax
    np.testing.assert_allclose(logits[-1, :3], first, atol=5e-5)


def test_float32_is_within_the_table(folder: Path) -> None:
    """float32 arithmetic meets the tolerance of logits."""
    exact = forward(load(folder), chain(TOKENS)).logits
    single = forward(load(folder, np.float32), chain(TOKENS)).logits
    assert single.dtype == np.float32
    assert_close(single, exact, "logits", "f32")


@pytest.mark.parametrize("numerics", [BF16_MATMULS, BF16_MATMULS_AND_CACHE])
def test_bf16_matmuls_are_within_the_table(folder: Path, numerics: Numerics) -> None:
    """Rounded activations flip single roundings between float32 and float64 sums."""
    double = forward(load(folder, np.float64, numerics), chain(TOKENS)).logits
    single = forward(load(folder, np.float32, numerics), chain(TOKENS)).logits
    assert_close(single, double, "logits", "bf16")


def test_a_prefix_gives_the_rows_of_the_whole(folder: Path) -> None:
    """Rows see nothing behind them."""
    model = load(folder)
    whole = forward(model, chain(TOKENS[:20])).logits
    np.testing.assert_allclose(forward(model, chain(TOKENS[:9])).logits, whole[:9], atol=1e-12)


def test_tree_rows_equal_chains(folder: Path) -> None:
    """Every node has the logits of the chain that leads to it."""
    model, context = load(folder), TOKENS[:7]
    tokens, parents = [11, 12, 13, 14, 15, 16], [-1, -1, 0, 0, 1, 4]
    logits = forward(model, tree(context, tokens, parents)).logits[len(context) :]
    paths = [[11], [12], [11, 13], [11, 14], [12, 15], [12, 15, 16]]
    for row, path in zip(logits, paths, strict=True):
        expected = forward(model, chain([*context, *path])).logits[-1]
        np.testing.assert_allclose(row, expected, atol=1e-12)


def test_order_of_rows_is_free(folder: Path) -> None:
    """Only positions and visible sets count, not where a row stands in the list."""
    model, tokens = load(folder), TOKENS[:6]
    backwards = [Row(tokens[p], p, frozenset(range(5 - p, 6))) for p in reversed(range(6))]
    expected = forward(model, chain(tokens)).logits[::-1]
    np.testing.assert_allclose(forward(model, backwards).logits, expected, atol=1e-12)


def test_outputs_belong_together(folder: Path) -> None:
    """Logits are the head applied to hidden, hidden is the norm of residual."""
    model = load(folder)
    out = forward(model, chain(TOKENS[:5]))
    np.testing.assert_allclose(out.hidden @ model.head.T, out.logits)
    scale = np.sqrt((out.residual**2).mean(axis=-1, keepdims=True) + model.config.eps)
    normed = out.residual / scale * model.weights["model.norm.weight"]
    np.testing.assert_allclose(out.hidden, normed)

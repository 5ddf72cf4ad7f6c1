"""The ops of a Llama step, each as its formula. They compute in the dtype of their input.

Shape letters: n rows, t cached rows, d width, h query heads, g key/value heads, e head size,
f feed-forward width, v vocabulary.
"""

import numpy as np

from .arrays import Doubles, Floats, Masks, Words


def bf16_bits(x: Floats) -> Words:
    """Bit patterns (in the low 16 bits) of x rounded to bfloat16, to nearest, ties to even."""
    bits = np.asarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(x), quiet_nan, rounded).astype(np.uint32)


def bf16_values(bits: Words) -> Floats:
    """float32 values of bfloat16 bit patterns."""
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def bf16_round(x: Floats) -> Floats:
    """Round x to the nearest bfloat16, ties to even; the dtype of x stays."""
    return bf16_values(bf16_bits(x)).astype(x.dtype)


def embed(table: Floats, tokens: list[int]) -> Floats:
    """Rows (n, d) of table (v, d)."""
    return table[np.asarray(tokens, dtype=np.int64)]


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """RMSNorm: x / sqrt(mean(x^2) + eps) * weight over the last axis. Zhang, Sennrich 2019."""
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    return np.asarray(x / np.sqrt(mean_square + x.dtype.type(eps)) * weight)


def linear(x: Floats, weight: Floats, bias: Floats | None = None) -> Floats:
    """Product of x (n, inputs) and the transpose of weight (outputs, inputs), plus bias."""
    return np.asarray(x @ weight.T if bias is None else x @ weight.T + bias)


def linear_bf16(x: Floats, weight: Floats) -> Floats:
    """Compute `linear` with activations rounded to bfloat16, as the runtime's matmuls take them."""
    return linear(bf16_round(x), weight)


def silu(x: Floats) -> Floats:
    """SiLU: x * sigmoid(x), without overflow for large negative x."""
    half = x.dtype.type(0.5)
    return np.asarray(x * half * (1 + np.tanh(half * x)))


def swiglu(gate: Floats, up: Floats) -> Floats:
    """silu(gate) * up, for (n, f) each. Shazeer 2020 (arXiv 2002.05202), eq. 6."""
    return np.asarray(silu(gate) * up)


def inverse_frequencies(head_size: int, theta: float) -> Doubles:
    """theta^(-2i/e) for i in 0 .. e/2-1. Su et al. 2021 (arXiv 2104.09864), section 3.3."""
    return np.asarray(theta ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size))


def llama3_frequencies(
    inverse: Doubles, factor: float, low: float, high: float, context: int
) -> Doubles:
    """Frequency scaling of Llama 3.1, as Hugging Face's `_compute_llama3_parameters` does it.

    `context` is `original_max_position_embeddings`. Wavelengths below context / high stay, those
    above context / low are divided by factor, and those between are blended.
    """
    turns = context * inverse / (2 * np.pi)  # context / wavelength
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray((1 - smooth) * inverse / factor + smooth * inverse)


def rope(x: Floats, positions: list[int], inverse: Doubles) -> Floats:
    """Rotate x (n, heads, e) by position; component i pairs with i + e/2 (half-split)."""
    angles = np.asarray(positions, dtype=np.float64)[:, None] * inverse
    cos = np.cos(angles).astype(x.dtype)[:, None, :]
    sin = np.sin(angles).astype(x.dtype)[:, None, :]
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def softmax(x: Floats) -> Floats:
    """Softmax over the last axis; -inf gives 0."""
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def attention(q: Floats, k: Floats, v: Floats, visible: Masks) -> Floats:
    """Grouped-query attention: q (n, h, e), k and v (t, g, e), visible (n, t) -> (n, h, e).

    Head i reads key/value head i // (h / g). Ainslie et al. 2023 (arXiv 2305.13245), section 2.2.
    """
    group = q.shape[1] // k.shape[1]
    keys, values = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = np.einsum("nhe,the->hnt", q, keys) / np.sqrt(q.dtype.type(q.shape[-1]))
    weights = softmax(np.where(visible, scores, q.dtype.type(-np.inf)))
    return np.asarray(np.einsum("hnt,the->nhe", weights, values))


def attention_rows(
    q: Floats,
    cached_k: Floats,
    cached_v: Floats,
    new_k: Floats,
    new_v: Floats,
    sees: list[int],
    window: int = 0,
) -> Floats:
    """Attention of n new rows over t cached rows and each other.

    q (n, h, e); cached_k, cached_v (t, g, e); new_k, new_v (n, g, e). Row i sees all cached rows
    and new row j where bit j of sees[i] is set (its own bit must be set by the caller); with a
    window, only the last `window` of these.
    """
    bits = np.array([[mask >> j & 1 for j in range(len(new_k))] for mask in sees], dtype=np.bool_)
    cached = np.ones((len(q), len(cached_k)), dtype=np.bool_)
    visible = np.concatenate([cached, bits], axis=1)
    if window:
        # How many of the rows that it sees stand from here on.
        left = np.cumsum(visible[:, ::-1], axis=1)[:, ::-1]
        visible &= left <= window
    k, v = np.concatenate([cached_k, new_k]), np.concatenate([cached_v, new_v])
    return attention(q, k, v, visible)

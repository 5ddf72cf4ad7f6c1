"""A small Llama in plain PyTorch, for training and batched generation of the demo models.

Parameter names are those of a Hugging Face checkpoint, so a folder is read and written without a
mapping. It knows what the demo models need (tied embeddings, grouped kv heads, plain rope) and is
not a general Llama: loading refuses any configuration that it would compute differently.
Shape letters: b sequences, t positions, d width, h / g query / kv heads, e head dim, v vocabulary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of a model, as in the `config.json` beside its weights."""

    vocab: int
    width: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float
    norm_eps: float

    @staticmethod
    def read(folder: Path) -> LlamaShape:
        """Read `config.json`; raises ValueError for a configuration that is not supported."""
        config = json.loads((folder / "config.json").read_text())
        plain = {
            "model_type": "llama",
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "hidden_act": "silu",
        }
        rope = config["rope_parameters"]
        for key, value in plain.items():
            if config[key] != value:
                raise ValueError(f"{folder}: {key} = {config[key]!r} is not supported here")
        if rope["rope_type"] != "default":
            raise ValueError(f"{folder}: rope type {rope['rope_type']!r} is not supported here")
        return LlamaShape(
            vocab=config["vocab_size"],
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            ffn=config["intermediate_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            rope_theta=rope["rope_theta"],
            norm_eps=config["rms_norm_eps"],
        )


class KvCache:
    """Keys and values (layers, b, g, capacity, e) of the first `length` positions."""

    def __init__(self, shape: LlamaShape, batch: int, capacity: int, dtype: torch.dtype) -> None:
        """Reserve room for `capacity` positions of `batch` sequences."""
        size = (shape.layers, batch, shape.kv_heads, capacity, shape.head_dim)
        self.keys = torch.zeros(size, dtype=dtype)
        self.values = torch.zeros(size, dtype=dtype)
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write new rows (b, g, t, e) of one layer behind `length` and return all rows."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Keep only the sequences `rows`, in that order."""
        self.keys = self.keys[:, rows].contiguous()
        self.values = self.values[:, rows].contiguous()


class RmsNorm(nn.Module):
    """y = x * w / rms(x)."""

    def __init__(self, width: int, eps: float) -> None:
        """Start from unit weights."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of x in its own dtype."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class Attention(nn.Module):
    """Causal grouped-query attention with rope."""

    def __init__(self, shape: LlamaShape, layer: int) -> None:
        """Projections of one layer."""
        super().__init__()
        self.shape, self.layer = shape, layer
        self.q_proj = nn.Linear(shape.width, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KvCache | None) -> Tensor:
        """Attend from x (b, t, d) to itself and to what the cache holds."""
        b, t, _ = x.shape
        e = self.shape.head_dim
        q = _rotate(self.q_proj(x).view(b, t, -1, e).transpose(1, 2), cos, sin)
        k = _rotate(self.k_proj(x).view(b, t, -1, e).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, t, -1, e).transpose(1, 2)
        causal = cache is None or cache.length == 0
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        group = self.shape.heads // self.shape.kv_heads
        if t == 1:  # one new row: the query heads of a group are the rows of one product
            q = q.reshape(b, self.shape.kv_heads, group, e)
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            k = k.repeat_interleave(group, dim=1)
            v = v.repeat_interleave(group, dim=1)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
            y = y.transpose(1, 2)
        out: Tensor = self.o_proj(y.reshape(b, t, -1))
        return out


class Mlp(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: LlamaShape) -> None:
        """Three projections."""
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.ffn, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x (..., d)."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, shape: LlamaShape, layer: int) -> None:
        """Layer number `layer`, which names its part of the cache."""
        super().__init__()
        self.input_layernorm = RmsNorm(shape.width, shape.norm_eps)
        self.self_attn = Attention(shape, layer)
        self.post_attention_layernorm = RmsNorm(shape.width, shape.norm_eps)
        self.mlp = Mlp(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KvCache | None) -> Tensor:
        """Map x (b, t, d) to the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Llama(nn.Module):
    """Token ids to last hidden states; `logits` maps those to the vocabulary."""

    def __init__(self, shape: LlamaShape) -> None:
        """Random weights: normal with deviation 0.02, smaller where a layer adds to the stream."""
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Block(shape, i) for i in range(shape.layers))
        self.norm = RmsNorm(shape.width, shape.norm_eps)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * shape.layers) ** 0.5 if adds else 0.02)

    def forward(self, ids: Tensor, cache: KvCache | None = None) -> Tensor:
        """Hidden states (b, t, d) after the final norm; with a cache, `ids` continue it."""
        start = 0 if cache is None else cache.length
        e = self.shape.head_dim
        power = torch.arange(0, e, 2, dtype=torch.float32) / e
        position = torch.arange(start, start + ids.shape[1], dtype=torch.float32)
        angle = torch.outer(position, self.shape.rope_theta**-power)
        cos, sin = angle.cos(), angle.sin()
        x = self.embed_tokens(ids).float()  # the residual stream stays f32 under bf16 weights
        for block in self.layers:
            x = block(x, cos, sin, cache)
        if cache is not None:
            cache.length += ids.shape[1]
        out: Tensor = self.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (..., v) of hidden states (..., d), by the tied embedding."""
        return F.linear(hidden, self.embed_tokens.weight)


def load_llama(folder: Path) -> Llama:
    """Load a Hugging Face folder into a float32 model."""
    model = Llama(LlamaShape.read(folder))
    weights = load_file(folder / "model.safetensors")
    state = {
        name.removeprefix("model."): tensor.float()
        for name, tensor in weights.items()
        if name != "lm_head.weight"
    }
    model.load_state_dict(state)
    return model


def save_llama(model: Llama, path: Path) -> None:
    """Write a safetensors file in bf16 under Hugging Face names, tied embedding once."""
    state = {
        f"model.{name}": tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, path, metadata={"format": "pt"})

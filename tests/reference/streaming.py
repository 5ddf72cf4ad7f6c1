"""A forward of Speculative Streaming in PyTorch, without a cache and with one dense mask.

Source: arXiv 2402.11131, section 3: the streams of a row begin as its residual before the first
of the last layers, plus an embedding each. They see what the row sees, the row, and the streams
before them; nothing else sees them. Streams have LoRA of their own. Weights by their Hugging Face
names, those of the adapter by its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from .hf_folder import rope_frequencies
from .parallel_eagle import rms_norm, rotated
from .tiny_llama import config as llama_config
from .tiny_streaming import TinyStreaming

Tensors = dict[str, Tensor]


def _adapted(adapter: Tensors, name: str, x: Tensor, y: Tensor, begin: int) -> Tensor:
    """y, plus the LoRA of a module for the rows from `begin` on."""
    if f"{name}.lora_a" not in adapter:
        return y
    low = linear(x[begin:], adapter[f"{name}.lora_a"])
    return torch.cat([y[:begin], y[begin:] + linear(low, adapter[f"{name}.lora_b"])])


def _layer(
    model: TinyStreaming,
    base: Tensors,
    adapter: Tensors,
    layer: int,
    x: Tensor,
    positions: Tensor,
    sees: Tensor,
    begin: int,
) -> Tensor:
    c, at, own = model.target, f"model.layers.{layer}.", f"layers.{layer}."
    frequencies = torch.tensor(rope_frequencies(llama_config(c), c.head_dim), dtype=x.dtype)
    h = rms_norm(x, base[f"{at}input_layernorm.weight"])
    stacked = torch.cat([base[f"{at}self_attn.{name}_proj.weight"] for name in "qkv"])
    qkv = _adapted(adapter, f"{own}qkv", h, linear(h, stacked), begin)
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    q, k, v = (
        part.view(len(x), -1, c.head_dim)
        for part in torch.split(qkv, [queries, keys, keys], dim=-1)
    )
    q, k = rotated(q, positions, frequencies), rotated(k, positions, frequencies)
    k, v = (t.repeat_interleave(c.heads // c.kv_heads, dim=1) for t in (k, v))
    scores = torch.einsum("ihe,jhe->hij", q, k) * c.head_dim**-0.5
    shares = scores.masked_fill(~sees, float("-inf")).softmax(-1)
    mixed = torch.einsum("hij,jhe->ihe", shares, v).reshape(len(x), -1)
    y = linear(mixed, base[f"{at}self_attn.o_proj.weight"])
    x = x + _adapted(adapter, f"{own}o", mixed, y, begin)
    h = rms_norm(x, base[f"{at}post_attention_layernorm.weight"])
    gate = silu(linear(h, base[f"{at}mlp.gate_proj.weight"]))
    middle = gate * linear(h, base[f"{at}mlp.up_proj.weight"])
    y = linear(middle, base[f"{at}mlp.down_proj.weight"])
    return x + _adapted(adapter, f"{own}down", middle, y, begin)


def stream_logits(
    model: TinyStreaming, base: Tensors, adapter: Tensors, tokens: Sequence[int]
) -> Tensor:
    """Logits (1 + streams, vocab) of the last token's row and of its streams, in float64."""
    base, adapter = ({k: v.double() for k, v in each.items()} for each in (base, adapter))
    count, streams = len(tokens), model.streams
    x = base["model.embed_tokens.weight"][torch.tensor(list(tokens))]
    positions = torch.arange(count, dtype=torch.float64)
    sees = torch.ones(count, count, dtype=torch.bool).tril()
    first = model.target.layers - model.layers
    for layer in range(first):
        x = _layer(model, base, {}, layer, x, positions, sees, count)
    x = torch.cat([x, x[-1] + adapter["stream_embeddings"]])
    ahead = torch.arange(1, streams + 1) if model.positions == "shifted" else torch.zeros(streams)
    positions = torch.cat([positions, positions[-1] + ahead])
    sees = torch.ones(count + streams, count + streams, dtype=torch.bool).tril()
    for layer in range(first, model.target.layers):
        x = _layer(model, base, adapter, layer, x, positions, sees, count)
    head = base.get("lm_head.weight", base["model.embed_tokens.weight"])
    return linear(rms_norm(x[count - 1 :], base["model.norm.weight"]), head)

"""A forward of a P-EAGLE drafter in PyTorch, over pairs that each stand at an anchor and a depth.

Source: ParallelSpec (arXiv 2410.05589) in its EAGLE form, with the layers of EAGLE-3 (arXiv
2503.01840). Pair i joins the target's hidden states of position i with token i + 1 and predicts
token i + 2. Element (a, d) stands at position a + d: for d = 0 it is pair a, else a mask, which
predicts as if the tokens and features of a + 1 to a + d were not there. It sees the pairs up to
its anchor and the masks of its own anchor up to its own depth. There is no cache.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from .hf_folder import rope_frequencies
from .tiny_eagle import Tensors, TinyEagle
from .tiny_llama import TinyLlama
from .tiny_llama import config as llama_config

EPS = 1e-6


def target_features(folder: Path, tokens: Sequence[int], layers: Sequence[int]) -> Tensor:
    """Residual before each of the layers, side by side (tokens, layers * width), in float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model
    found: dict[int, Tensor] = {}
    for number, module in enumerate((*model.layers, model.norm)):

        def take(_: object, inputs: tuple[Tensor, ...], number: int = number) -> None:
            found[number] = inputs[0].detach()[0]

        module.register_forward_pre_hook(take)
    with torch.no_grad():
        model(torch.tensor([list(tokens)]))
    return torch.cat([found[layer] for layer in layers], dim=-1)


def target_outputs(folder: Path, tokens: Sequence[int]) -> Tensor:
    """What the target's head reads (tokens, width), in float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model
    with torch.no_grad():
        states: Tensor = model(torch.tensor([list(tokens)])).last_hidden_state
    return states[0]


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """Norm of the last dimension."""
    return x * gain / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS)


def rotated(x: Tensor, positions: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate half-split pairs of x (n, heads, e)."""
    angles = (positions[:, None] * frequencies)[:, None]
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def visibility(anchors: Tensor, depths: Tensor) -> Tensor:
    """Mask (n, n): entry (i, j) says that element i sees element j."""
    real = (depths[None] == 0) & (anchors[None] <= anchors[:, None])
    own = (anchors[None] == anchors[:, None]) & (depths[None] <= depths[:, None])
    return real | own


def attention(
    c: TinyLlama, w: Tensors, at: str, x: Tensor, positions: Tensor, sees: Tensor
) -> Tensor:
    """Self-attention of normalised rows, output projection included."""
    frequencies = torch.tensor(rope_frequencies(llama_config(c), c.head_dim), dtype=x.dtype)

    def heads(name: str, count: int) -> Tensor:
        y = linear(x, w[f"{at}self_attn.{name}_proj.weight"]).view(len(x), count, c.head_dim)
        gain = w.get(f"{at}self_attn.{name}_norm.weight")
        return y if gain is None else rms_norm(y, gain)

    q = rotated(heads("q", c.heads), positions, frequencies)
    k = rotated(heads("k", c.kv_heads), positions, frequencies)
    k, v = (t.repeat_interleave(c.heads // c.kv_heads, dim=1) for t in (k, heads("v", c.kv_heads)))
    scores = torch.einsum("ihe,jhe->hij", q, k) * c.head_dim**-0.5
    shares = scores.masked_fill(~sees, float("-inf")).softmax(-1)
    mixed = torch.einsum("hij,jhe->ihe", shares, v).reshape(len(x), -1)
    return linear(mixed, w[f"{at}self_attn.o_proj.weight"])


def hidden_state(model: TinyEagle, w: Tensors, features: Tensor) -> Tensor:
    """What the features of a row are brought to."""
    if model.norm_before_fc:
        features = rms_norm(features, w["input_norm.weight"])
    if model.fc_norm:
        parts = features.chunk(len(model.feature_layers), dim=-1)
        normed = [rms_norm(part, w[f"fc_norm.{i}.weight"]) for i, part in enumerate(parts)]
        features = torch.cat(normed, dim=-1)
    return linear(features, w["fc.weight"])


def forward(
    model: TinyEagle, w: Tensors, tokens: Tensor, features: Tensor, anchors: Tensor, depths: Tensor
) -> Tensor:
    """Logits (n, vocab) of elements; `tokens` (t,) and `features` (t, cols) are the target's."""
    masked, positions = depths > 0, anchors + depths
    pairs = torch.where(masked, 0, anchors)
    ids = torch.where(masked, model.mask_token, tokens[pairs + 1])
    states = torch.where(masked[:, None], w["mask_hidden"].view(1, -1), features[pairs])
    sees = visibility(anchors, depths)
    token, hidden = w["embed_tokens.weight"][ids], hidden_state(model, w, states)
    for layer in range(model.decoder.layers):
        at = f"layers.{layer}."
        if layer == 0:
            state = rms_norm(hidden, w["layers.0.hidden_norm.weight"])
            normed = torch.cat([rms_norm(token, w[f"{at}input_layernorm.weight"]), state], dim=-1)
            x = state if model.norm_before_residual else hidden
        else:
            normed = rms_norm(x, w[f"{at}input_layernorm.weight"])
        x = x + attention(model.decoder, w, at, normed, positions, sees)
        normed = rms_norm(x, w[f"{at}post_attention_layernorm.weight"])
        gate = silu(linear(normed, w[f"{at}mlp.gate_proj.weight"]))
        up = linear(normed, w[f"{at}mlp.up_proj.weight"])
        x = x + linear(gate * up, w[f"{at}mlp.down_proj.weight"])
    return linear(rms_norm(x, w["norm.weight"]), w["lm_head.weight"])


def draft_logits(
    model: TinyEagle, w: Tensors, tokens: Sequence[int], features: Tensor, count: int
) -> Tensor:
    """Logits of all pairs of `tokens`, then of the masks with which it drafts `count` tokens."""
    pairs = len(tokens) - 1
    anchors = torch.cat([torch.arange(pairs), torch.full((count - 1,), pairs - 1)])
    depths = torch.cat([torch.zeros(pairs, dtype=torch.long), torch.arange(1, count)])
    return forward(model, w, torch.tensor(list(tokens)), features, anchors, depths)

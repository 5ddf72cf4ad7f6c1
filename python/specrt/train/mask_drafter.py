"""The parallel drafter as a PyTorch module: a small causal LM with one mask token for all depths.

A drafter folder is what PARD (arXiv 2504.18583) made customary: a Llama-family Hugging Face folder
whose `config.json` names the mask token, `"pard_token"`. The token's row is appended behind the
target's vocabulary, so every id of the target keeps its meaning; drafters by others may use a token
of the vocabulary that no text has.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

# What a drafter has in common with its target.
SHARED_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


class MaskDrafter(nn.Module):
    """Scores of chosen elements of grouped sequences; what is trained, on one device or several."""

    def __init__(self, causal: LlamaForCausalLM) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, ids: Tensor, positions: Tensor, seen: Tensor, rows: Tensor) -> Tensor:
        """Scores (n, v) of the flat elements `rows` (n) of inputs ids, positions (b, s).

        `seen` is the mask of `group_mask`, dense (b, 1, s, s) or a block mask of flex attention.
        """
        hidden = self.causal.model(
            input_ids=ids, position_ids=positions, attention_mask=seen, use_cache=False
        ).last_hidden_state
        scores: Tensor = self.causal.lm_head(hidden.reshape(-1, hidden.shape[-1])[rows])
        return scores


def mask_token(config: LlamaConfig) -> int | None:
    """The mask token of a parallel drafter; None for a plain causal LM."""
    token: int | None = getattr(config, "pard_token", None)
    return token


def read_config(folder: Path) -> LlamaConfig:
    """The configuration of a Llama-family folder. Raises ValueError."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no Hugging Face model folder: it has no config.json")
    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, LlamaConfig):
        raise ValueError(
            f"{folder} is a {config.model_type!r} model; a drafter must be of the Llama family"
        )
    token, vocab = mask_token(config), config.vocab_size
    if token is not None and (type(token) is not int or not 0 <= token < vocab):
        raise ValueError(f"{folder}: pard_token {token!r} is not a token below {vocab}")
    return config


def start_drafter(init: Path, vocab: int, layers: int | None, scratch: bool) -> LlamaForCausalLM:
    """The causal LM of `init` in float32, with a vocabulary of `vocab` rows.

    A plain LM gets the rows that it lacks, at the mean of the others. Layers beyond those of `init`
    add nothing to the stream at first, so the model starts as the same function.

    Args:
        init: Hugging Face folder, of a plain causal LM or of an earlier drafter.
        vocab: rows of the embedding; the last one is the mask token's where there is one.
        layers: of the drafter; None for as many as `init` has.
        scratch: take only the shape of `init`, with random weights.

    Raises:
        ValueError: `init` is not of the Llama family or does not fit.
    """
    config = read_config(init)
    if mask_token(config) is not None and config.vocab_size != vocab:
        raise ValueError(
            f"{init} is a parallel drafter with {config.vocab_size} tokens, and {vocab} are needed "
            "here: give it to `train parallel` with its own target"
        )
    wanted = config.num_hidden_layers if layers is None else layers
    if wanted < config.num_hidden_layers:
        raise ValueError(f"{init} has {config.num_hidden_layers} layers; --layers cannot drop any")
    config.dtype = torch.float32
    if scratch:
        config.vocab_size, config.num_hidden_layers = vocab, wanted
        return LlamaForCausalLM(config)
    model = _load(init)
    if config.vocab_size != vocab:
        _resize(model, vocab)
    return model if wanted == len(model.model.layers) else _deepen(model, wanted)


def _load(folder: Path) -> LlamaForCausalLM:
    """The model of a folder. Raises ValueError unless its tensors fit its configuration."""
    try:
        loaded: Any = LlamaForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except OSError as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from None
    model: LlamaForCausalLM
    model, found = loaded
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise ValueError(
            f"{folder} has {name} of shape {list(stored)}; its config.json asks for {list(wanted)}"
        )
    for name in sorted(found["missing_keys"]):
        raise ValueError(f"{folder} lacks {name}")
    for name in sorted(found["unexpected_keys"]):
        raise ValueError(f"{folder} has {name}, which nothing reads")
    return model


def _resize(model: LlamaForCausalLM, vocab: int) -> None:
    old = model.config.vocab_size
    model.resize_token_embeddings(vocab, mean_resizing=False)
    with torch.no_grad():
        for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
            weight[old:] = weight[:old].mean(dim=0)


def _deepen(model: LlamaForCausalLM, layers: int) -> LlamaForCausalLM:
    old = model.config.num_hidden_layers
    config = LlamaConfig.from_dict(model.config.to_dict() | {"num_hidden_layers": layers})
    deep = LlamaForCausalLM(config)
    deep.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for layer in deep.model.layers[old:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return deep


@torch.inference_mode()
def depth_logits(model: LlamaForCausalLM, tokens: Sequence[int], depths: int) -> Tensor:
    """Scores (depths, v) that one inference call gives: `tokens`, then depths - 1 mask tokens.

    Row d is the draft for position len(tokens) + d. This is a round without a cache, as plain as
    can be; runtimes and the training layout are checked against it.
    """
    mask = mask_token(model.config)
    if depths > 1 and mask is None:
        raise ValueError("this model has no mask token; it drafts one position")
    ids = [*tokens, *[mask] * (depths - 1)]
    scores: Tensor = model(torch.tensor([ids], device=model.device)).logits[0, -depths:]
    return scores


def export_drafter(model: LlamaForCausalLM, depths: int, target: Path, out: Path) -> None:
    """Write a model folder in bf16 with the tokenizer files of `target`; each file appears whole.

    A drafter of several depths keeps its `pard_token` and gets `parallel_depths`.
    """
    with new_folder(out) as part:
        deepcopy(model).bfloat16().save_pretrained(part)
        config = json.loads((part / "config.json").read_text())
        if depths > 1:
            config |= {"pard_token": mask_token(model.config), "parallel_depths": depths}
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        copy_shared(target, part)


def copy_shared(target: Path, out: Path) -> None:
    """Copy the files of `target` that a drafter has in common with it."""
    for name in SHARED_FILES:
        if (target / name).is_file():
            shutil.copyfile(target / name, out / name)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write files into that then move into `out`, each of them whole."""
    part = out / ".part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    for path in part.iterdir():
        path.chmod(0o644)  # safetensors makes its file for the owner alone
        path.replace(out / path.name)
    part.rmdir()

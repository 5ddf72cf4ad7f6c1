"""Random Medusa heads for a tiny model, as a folder in FasterDecoding's form.

Head: x = x + silu(W x + b) for every block, then logits = U x (Cai et al., arXiv 2401.10774, 3.1).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arrays import Floats
from .safetensors_file import write_safetensors
from .tiny_llama import TinyLlama, write_json


@dataclass(frozen=True)
class TinyMedusa:
    """Shape of the heads; `told` is what config.json says of their number."""

    base: TinyLlama
    heads: int = 2
    layers: int = 1
    told: int = 2


def medusa_weights(model: TinyMedusa) -> dict[str, Floats]:
    """Values by their stored names."""
    random = np.random.default_rng(11)
    width, vocab = model.base.hidden, model.base.vocab
    made: dict[str, Floats] = {}
    for head in range(model.heads):
        for layer in range(model.layers):
            linear = f"{head}.{layer}.linear"
            made[f"{linear}.weight"] = random.normal(0, width**-0.5, (width, width))
            made[f"{linear}.bias"] = random.normal(0, 0.1, width)
        made[f"{head}.{model.layers}.weight"] = random.normal(0, width**-0.5, (vocab, width))
    return {name: values.astype(np.float32) for name, values in made.items()}


def write_tiny_medusa(folder: Path, model: TinyMedusa) -> Path:
    """Write config and weights into a new folder."""
    folder.mkdir(parents=True)
    config = {"medusa_num_heads": model.told, "medusa_num_layers": model.layers}
    write_json(folder / "config.json", config)
    stored = model.base.dtype.upper()
    write_safetensors(folder / "medusa_lm_head.safetensors", medusa_weights(model), stored)
    return folder

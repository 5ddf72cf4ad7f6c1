"""Loads drafters with the `speculators` package and writes what it computes; no test by itself.

    python speculators_scores.py CASE...

Runs in an environment of its own (`tools/speculators_env.sh`). A CASE is a folder with a drafter in
`drafter/` and `elements.npz`: `ids` and `states` of one sequence, `anchors` and `depths`, as that
package aligns them, where position i has the token that follows the states of position i. Writes
`result.npz` with the scores of every element, and `saved/`, as the package saves the drafter.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from speculators import SpeculatorModel, SpeculatorModelConfig
from speculators.losses import resolve_loss_config
from speculators.models.peagle import core


def run(case: Path) -> None:
    """Loads, computes, writes."""
    folder = str(case / "drafter")
    config = SpeculatorModelConfig.from_pretrained(folder)
    config.transformer_layer_config._attn_implementation = "eager"  # flex attention is for GPUs
    model = SpeculatorModel.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    given = {name: torch.from_numpy(one) for name, one in np.load(case / "elements.npz").items()}
    core.generate_cod_sample_indices = lambda **_: (given["anchors"], given["depths"])
    scores: list[torch.Tensor] = []
    model.lm_head.register_forward_hook(lambda _module, _inputs, out: scores.append(out))
    with torch.no_grad():
        model(
            hidden_states=given["states"],
            input_ids=given["ids"],
            document_ids=torch.zeros_like(given["ids"]),
            verifier_last_hidden_states=given["states"][..., : model.hidden_size],
            loss_config=resolve_loss_config("kl_div", "eager"),
        )
    np.savez(case / "result.npz", scores=scores[0][0].numpy(), kind=type(model).__name__)
    model.save_pretrained(case / "saved")


if __name__ == "__main__":
    for word in sys.argv[1:]:
        run(Path(word))

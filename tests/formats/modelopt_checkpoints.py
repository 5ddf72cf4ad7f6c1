"""Writes TensorRT-LLM checkpoints with NVIDIA ModelOpt, on a CPU; no test by itself.

    python modelopt_checkpoints.py CASE...

Runs in an environment of its own (`tools/modelopt_env.sh`). A CASE is a folder with a Hugging Face
model in `model/`, maybe Medusa heads in `heads/`, and `case.json` with `dtype` and `ranks`. Writes
`modelopt/`.
"""

import copy
import json
import sys
from pathlib import Path

import torch
from modelopt.torch import speculative
from modelopt.torch.export import export_tensorrt_llm_checkpoint
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def add_heads(model: torch.nn.Module, folder: Path) -> None:
    """Turns a model into one with the Medusa heads of a folder."""
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = {name: told[name] for name in ("medusa_num_heads", "medusa_num_layers")}
    speculative.convert(model, [("medusa", shape)])
    for head in model.medusa_heads:
        for layer in range(shape["medusa_num_layers"]):
            head[layer] = copy.deepcopy(head[layer])  # ModelOpt makes one block of all
    weights = load_file(folder / "medusa_lm_head.safetensors")
    model.medusa_heads.load_state_dict(weights)


def run(case: Path) -> None:
    """Loads, exports."""
    told = json.loads((case / "case.json").read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(case / "model", torch_dtype="auto")
    if (case / "heads").exists():
        add_heads(model, case / "heads")
    export_tensorrt_llm_checkpoint(
        model,
        "llama",
        dtype=getattr(torch, told["dtype"]),
        export_dir=case / "modelopt",
        inference_tensor_parallel=told["ranks"],
    )


if __name__ == "__main__":
    for word in sys.argv[1:]:
        run(Path(word))

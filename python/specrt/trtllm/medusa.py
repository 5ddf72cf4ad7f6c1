"""Medusa heads beside the model that they belong to, for a TensorRT-LLM checkpoint."""

from dataclasses import replace
from pathlib import Path

from specrt.build.checkpoint import Checkpoint
from specrt.build.medusa import read_heads, stored_name
from specrt.trtllm.unified import MedusaHeads


def read_medusa(folder: Path, base: Checkpoint) -> tuple[MedusaHeads, Checkpoint]:
    """The heads of a folder, and the tensors of `base` and of the heads together.

    Raises BuildError.
    """
    heads = read_heads(folder)
    merged = replace(base, tensors={**base.tensors, **heads.tensors}, names=stored_name)
    return MedusaHeads(heads.heads, heads.blocks), merged

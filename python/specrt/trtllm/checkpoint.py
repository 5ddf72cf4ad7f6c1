"""Writes the TensorRT-LLM checkpoint of a Hugging Face model, a few rows at a time."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specrt.build.checkpoint import Checkpoint, open_checkpoint, source_hashes
from specrt.build.config import ModelConfig
from specrt.build.errors import BuildError
from specrt.build.files import file_sha256
from specrt.build.graph import DType
from specrt.build.hf import CONFIG, read_config
from specrt.build.medusa import WEIGHTS
from specrt.build.pack import all_finite, converted
from specrt.build.safetensors_file import NUMPY_TYPES, read_tensor_table
from specrt.build.source import Source
from specrt.trtllm import medusa
from specrt.trtllm.unified import (
    Dtype,
    Embedding,
    Layout,
    RankTensor,
    Slice,
    check_layout,
    checkpoint_config,
    rank_tensors,
)

CHUNK_BYTES = 16 << 20  # of rows in f32
_HEADER_ALIGNMENT = 8


@dataclass(frozen=True)
class Model:
    """A model that has passed every check, ready to be converted."""

    source: Source
    config: ModelConfig
    checkpoint: Checkpoint
    layout: Layout
    medusa: Source | None = None

    @property
    def ranks(self) -> list[list[RankTensor]]:
        """The tensors of every rank."""
        return [
            list(rank_tensors(self.config, self.layout, rank)) for rank in range(self.layout.ranks)
        ]

    @property
    def size(self) -> int:
        """Bytes of all tensors that are written."""
        return sum(_bytes(tensor) for rank in self.ranks for tensor in rank)


def _bytes(tensor: RankTensor) -> int:
    return math.prod(tensor.shape) * 2


def read_model(
    source: Source,
    ranks: int,
    *,
    dtype: Dtype | None = None,
    embedding: Embedding = Embedding.WHOLE,
    heads: Source | None = None,
    max_context: int | None = None,
) -> Model:
    """Check a model's config and tensors. Raises BuildError that names what has no place.

    `dtype` None: float16 for a checkpoint that is all float16, else bfloat16. `heads` are Medusa's
    heads on the model. `max_context` counts
    only against sliding windows, which TensorRT-LLM's checkpoints do not have.
    """
    config = read_config(source.folder, None)
    context = min(config.context, max_context or config.context)
    narrow = sorted({window for window in config.windows if 0 < window < context})
    if narrow:
        raise BuildError(
            f"{source.folder}: a sliding window of {narrow[0]} positions is not in TensorRT-LLM's "
            f"checkpoints; where texts are no longer it has no effect: --max-context {narrow[0]}"
        )
    checkpoint = open_checkpoint(source.folder)
    if dtype is None:
        kinds = {tensor.dtype for tensor in checkpoint.tensors.values()}
        dtype = Dtype.F16 if kinds == {"F16"} else Dtype.BF16
    shape = None
    if heads is not None:
        shape, checkpoint = medusa.read_medusa(heads.folder, checkpoint)
    layout = Layout(dtype, ranks, embedding, shape)
    check_layout(config, layout, str(source.folder))
    model = Model(source, config, checkpoint, layout, heads)
    checkpoint.check(part.parameter for tensor in model.ranks[0] for part in tensor.parts)
    return model


def write_checkpoint(
    model: Model, folder: Path, advance: Callable[[int], object] = lambda _: None
) -> dict[str, Any]:
    """Write config.json and the file of every rank into a new folder, and read their tables again.

    Returns the manifest's entry. `advance` is told bytes as they are written. Raises BuildError and
    OSError.
    """
    folder.mkdir(parents=True)
    text = json.dumps(checkpoint_config(model.config, model.layout), indent=4) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    names = [CONFIG]
    for rank, tensors in enumerate(model.ranks):
        names.append(f"rank{rank}.safetensors")
        _write_rank(folder / names[-1], model, tensors, advance)
        _verify_rank(folder / names[-1], model, tensors)
    return {
        "dtype": model.layout.dtype.config_name,
        "sha256": {name: file_sha256(folder / name) for name in names},
        "sources": _sources(model),
    }


def _sources(model: Model) -> list[dict[str, Any]]:
    """What the checkpoint was made of: the model, and Medusa heads if it has them."""
    hashes = {model.source: source_hashes(model.checkpoint)}
    if model.medusa is not None:
        files = (CONFIG, WEIGHTS)
        hashes[model.medusa] = {name: file_sha256(model.medusa.folder / name) for name in files}
    return [
        {"model": source.model, "revision": source.revision, "sha256": sha256}
        for source, sha256 in hashes.items()
    ]


def _write_rank(
    path: Path, model: Model, tensors: Sequence[RankTensor], advance: Callable[[int], object]
) -> None:
    """Write a safetensors file: the header's length, the header, and the tensors in its order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + _bytes(tensor)
        header[tensor.name] = {
            "dtype": model.layout.dtype.stored_name,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for part in tensor.parts:
                for chunk in _chunks(model, part):
                    file.write(chunk.data)
                    advance(chunk.nbytes)


def _chunks(model: Model, part: Slice) -> Iterator[NDArray[Any]]:
    """Rows of a slice as the checkpoint stores them, and its padding. Raises BuildError."""
    stored = model.checkpoint.tensor(part.parameter)
    dtype = model.layout.dtype
    begin, end = part.rows
    if len(part.parameter.shape) == 1:
        yield _as_stored(stored.read_rows(0, 1)[0, begin:end], dtype, f"{stored.name!r}")
        return
    columns = slice(*(part.columns or (0, part.parameter.shape[1])))
    step = max(1, CHUNK_BYTES // (4 * part.parameter.shape[1]))
    for first in range(begin, end, step):
        rows = stored.read_rows(first, min(first + step, end))[:, columns]
        yield _as_stored(np.ascontiguousarray(rows), dtype, f"{stored.name!r}")
    if part.padding:
        kind = NUMPY_TYPES[dtype.stored_name]
        yield np.zeros((part.padding, columns.stop - columns.start), kind)


def _as_stored(values: NDArray[Any], dtype: Dtype, name: str) -> NDArray[Any]:
    """Values (f32, f16, or bf16 as uint16) in the checkpoint's type. Raises BuildError."""
    if dtype is Dtype.BF16:
        out = converted(values, DType.BF16)
    else:
        with np.errstate(over="ignore"):  # seen below
            is_f16 = values.dtype == np.float16
            out = values if is_f16 else converted(values, DType.F32).astype("<f2")
    if not all_finite(out):
        advice = "" if dtype is Dtype.BF16 else ", or needs --dtype bf16"
        raise BuildError(
            f"tensor {name} holds NaN, infinity, or values too large for {dtype.config_name}; the "
            f"checkpoint is damaged{advice}"
        )
    return np.ascontiguousarray(out)


def _verify_rank(path: Path, model: Model, tensors: Sequence[RankTensor]) -> None:
    """Raise BuildError unless a file has exactly the tensors of its rank."""
    kind = model.layout.dtype.stored_name
    found = {name: (one.dtype, one.shape) for name, one in read_tensor_table(path).items()}
    if found != {tensor.name: (kind, tensor.shape) for tensor in tensors}:
        raise BuildError(f"{path} did not come out as planned; is the disk sound?")

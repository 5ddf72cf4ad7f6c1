"""A model's safetensors files as one table of tensors, checked against what a graph needs."""

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specrt.build.errors import BuildError
from specrt.build.files import file_sha256
from specrt.build.graph import DType, Parameter
from specrt.build.hf import CONFIG, tensor_name, unused_tensors
from specrt.build.json_file import INDEX_LIMIT, read_json
from specrt.build.safetensors_file import NUMPY_TYPES, StoredTensor, read_tensor_table

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_COMPARE_BYTES = 8 << 20
_FILE_NAME = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a model folder by their stored names, and the files that hold them."""

    folder: Path
    tensors: Mapping[str, StoredTensor]
    files: tuple[str, ...]
    names: Callable[[str], str] = tensor_name  # stored name of specrt's parameter

    def tensor(self, parameter: Parameter) -> StoredTensor:
        """Where a parameter is stored. Raises BuildError if it is missing or misshapen."""
        name = self.names(parameter.name)
        stored = self.tensors.get(name)
        if stored is None:
            raise BuildError(f"{self.folder}: tensor {name!r} is missing")
        if stored.shape != parameter.shape:
            raise BuildError(
                f"{stored.file}: tensor {name!r} has shape {list(stored.shape)}, but "
                f"{CONFIG} says {list(parameter.shape)}"
            )
        if stored.dtype not in NUMPY_TYPES:
            raise BuildError(
                f"{stored.file}: tensor {name!r} has dtype {stored.dtype}; specrt reads "
                f"{', '.join(NUMPY_TYPES)}. Save the model in one of them"
            )
        return stored

    def check(self, parameters: Iterable[Parameter]) -> None:
        """Raise BuildError unless the checkpoint has exactly `parameters`."""
        used = set()
        for parameter in parameters:
            self.tensor(parameter)
            used.add(self.names(parameter.name))
        extra = unused_tensors(self.tensors, used)
        head, table = self.names("head"), self.names("embed")
        if head in extra and _same_bytes(self.tensors[head], self.tensors[table]):
            extra.remove(head)
        if head in extra:
            raise BuildError(
                f"{self.folder}: tie_word_embeddings is true, but {head!r} differs from {table!r}; "
                f"set tie_word_embeddings to false in {CONFIG}, or remove the tensor"
            )
        if extra:
            shown = ", ".join(map(repr, extra[:8])) + (", ..." if len(extra) > 8 else "")
            raise BuildError(
                f"{self.folder}: {len(extra)} tensors have no place in this architecture: {shown}"
            )

    def default_dtype(self) -> DType:
        """F32 for a checkpoint that is all f32, else BF16."""
        kinds = {tensor.dtype for tensor in self.tensors.values()}
        return DType.F32 if kinds == {"F32"} else DType.BF16


def _same_bytes(a: StoredTensor, b: StoredTensor) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape) or a.dtype not in NUMPY_TYPES or len(a.shape) != 2:
        return False
    rows, step = a.shape[0], max(1, _COMPARE_BYTES // max(1, a.shape[1] * 4))
    spans = ((begin, min(begin + step, rows)) for begin in range(0, rows, step))
    return all(
        np.array_equal(a.read_rows(*s).view(np.uint8), b.read_rows(*s).view(np.uint8))
        for s in spans
    )


def _sharded(folder: Path) -> Checkpoint:
    """Tensors of an index and its shards; both must agree."""
    index = folder / INDEX
    places = read_json(index, INDEX_LIMIT).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise BuildError(f"{index} has no weight_map")
    for file in places.values():
        if not isinstance(file, str) or not _FILE_NAME.fullmatch(file):
            raise BuildError(f"{index} names {file!r}, which is not a file of this folder")
    tensors: dict[str, StoredTensor] = {}
    files = tuple(sorted(set(places.values())))
    for file in files:
        for name, tensor in read_tensor_table(folder / file).items():
            if places.get(name, file) != file or name in tensors:
                raise BuildError(f"{index} does not say that tensor {name!r} is in {file}")
            tensors[name] = tensor
    for name, file in places.items():
        if name not in tensors:
            raise BuildError(f"{folder / file} lacks tensor {name!r}, which {INDEX} promises")
    return Checkpoint(folder, tensors, (INDEX, *files))


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the headers of all weight files of a folder. Raises BuildError."""
    if (folder / WEIGHTS).exists():
        return Checkpoint(folder, read_tensor_table(folder / WEIGHTS), (WEIGHTS,))
    if (folder / INDEX).exists():
        return _sharded(folder)
    advice = ""
    if any(folder.glob("*.bin")):
        advice = "; save its .bin weights as safetensors with save_pretrained"
    raise BuildError(f"{folder} has neither {WEIGHTS} nor {INDEX}{advice}")


def source_hashes(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of the config and the weight files by file name."""
    names = (CONFIG, *checkpoint.files)
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(file_sha256, (checkpoint.folder / name for name in names))
        return dict(zip(names, hashes, strict=True))

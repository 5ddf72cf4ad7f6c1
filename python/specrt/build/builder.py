"""Builds a bundle: reads models, plans and checks everything, then writes the engines."""

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from specrt._core import Error
from specrt.build import eagle, eagle3, medusa, parallel_medusa, speculators
from specrt.build.architectures import graph_of
from specrt.build.bundle import (
    FORMAT,
    FORMAT_VERSION,
    check_replaceable,
    specrt_version,
    write_manifest,
)
from specrt.build.checkpoint import Checkpoint, open_checkpoint, source_hashes
from specrt.build.config import (
    MIN_CONTEXT,
    Eagle,
    Eagle1,
    FeatureDrafter,
    Kept,
    Medusa,
    ModelConfig,
    ParallelMedusa,
)
from specrt.build.convert import tensor_chunks
from specrt.build.engine_file import BACKENDS, file_size, write_engine
from specrt.build.errors import BuildError
from specrt.build.graph import DType, Graph, Parameter, Tensor, Weight
from specrt.build.hf import read_config
from specrt.build.lower import Lowered, lower
from specrt.build.passes import fuse
from specrt.build.source import Source, find_model
from specrt.build.staging import staged
from specrt.build.streaming import extra_parameters, is_adapter, read_adapter, with_adapter
from specrt.build.tiles import tiled
from specrt.build.token_text import token_table
from specrt.build.tokenizer import (
    TOKENIZER,
    check_same_vocabulary,
    copy_tokenizer,
    read_vocabulary,
)

DTYPES = tuple(dtype.value for dtype in DType)
TARGET_FILE = "target.engine"
DRAFTER_FOLDER = "drafters"
# A drafter that fills masks drafts all tokens at once, on its own or from what the target computed;
# any other model one by one.
DRAFT_NAME = "draft"
PARALLEL_NAME = "parallel"


@dataclass(frozen=True)
class _Options:
    backend: str
    draft_backend: str
    dtype: str | None
    max_context: int | None

    def check(self) -> None:
        """Raise BuildError for an option that is not offered."""
        if self.backend not in BACKENDS:
            raise BuildError(f"backend {self.backend!r} is not one of {', '.join(BACKENDS)}")
        if self.draft_backend not in ("cpu", self.backend):
            raise BuildError(
                f"draft_backend {self.draft_backend!r} beside backend {self.backend!r}; drafters "
                'run where the target does, or on the "cpu"'
            )
        if self.dtype is not None and self.dtype not in DTYPES:
            raise BuildError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.max_context is not None and self.max_context < MIN_CONTEXT:
            raise BuildError(f"max_context {self.max_context} is below {MIN_CONTEXT} positions")

    def command(self, model: str, drafters: Sequence[str], out: str) -> str:
        """Return the command line that builds the same bundle."""
        words = ["specrt", "build", model]
        for drafter in drafters:
            words += ["--draft", drafter]
        words += ["--backend", self.backend]
        if self.draft_backend != self.backend:
            words += ["--draft-backend", self.draft_backend]
        words += ["--dtype", self.dtype] if self.dtype else []
        words += ["--max-context", str(self.max_context)] if self.max_context else []
        return shlex.join([*words, "-o", out])


@dataclass(frozen=True)
class _Model:
    """A model that has passed every check, ready to be written."""

    source: Source
    config: ModelConfig
    checkpoint: Checkpoint
    lowered: Lowered
    vocabulary: dict[str, int] | None  # of its tokenizer
    hashes: dict[str, str]  # SHA-256 of the source files
    adapter: Source | None = None  # of a target with streams

    @property
    def streams_entry(self) -> dict[str, Any]:
        """What the manifest says of a target's streams; nothing without them."""
        streaming = self.config.streaming
        if streaming is None or self.adapter is None:
            return {}
        adapter = open_checkpoint(self.adapter.folder)
        return {
            "streaming": {
                "model": self.adapter.model,
                "revision": self.adapter.revision,
                "sha256": source_hashes(adapter),
                "streams": streaming.streams,
                "layers": streaming.layers,
                "parameters": extra_parameters(adapter),
            }
        }

    @property
    def heads_entry(self) -> dict[str, int]:
        """What the manifest says of a drafter that is made of heads."""
        features = self.config.features
        return {"heads": features.heads} if isinstance(features, Medusa) else {}

    @property
    def meta(self) -> dict[str, Any]:
        """What the engine file says for people."""
        return {
            "architecture": self.config.architecture,
            "buffers": list(self.lowered.buffer_names),
            "sources": self.hashes,
            "specrt_version": specrt_version(),
            "tensors": [tensor.name for tensor in self.lowered.tensors],
        }

    @property
    def drafter_name(self) -> str:
        """Its name among the drafters of a bundle, if it is one."""
        if self.config.features is not None:
            return _feature_name(self.config.features)
        return DRAFT_NAME if self.config.mask_token is None else PARALLEL_NAME

    @property
    def method(self) -> str:
        """The method that it drafts for, if it is a drafter."""
        return "speculative" if self.drafter_name == DRAFT_NAME else self.drafter_name

    @property
    def drafter_file(self) -> str:
        """Its engine in the bundle, if it is a drafter."""
        return f"{DRAFTER_FOLDER}/{self.drafter_name}.engine"

    @property
    def engine_bytes(self) -> int:
        """Size of the engine file."""
        return file_size(self.lowered.plan, self.meta)


def _feature_name(features: FeatureDrafter) -> str:
    match features:
        case Eagle(masks=True):
            return "parallel-eagle"
        case Eagle() | Eagle1():
            return "eagle"
        case ParallelMedusa():
            return "parallel-medusa"
        case Medusa():
            return "medusa"


def _parameters(graph: Graph) -> list[Parameter]:
    weights = (t for op in graph.ops for t in op.tensors if isinstance(t, Weight))
    return [part for weight in weights for part in weight.parts]


def _read_model(source: Source, options: _Options, backend: str) -> _Model:
    """Plan a model and check its config, tensors and tokenizer. Raises BuildError."""
    config = read_config(source.folder, options.max_context)
    checkpoint = open_checkpoint(source.folder)
    dtype = DType(options.dtype) if options.dtype else checkpoint.default_dtype()
    return _plan(source, config, checkpoint, dtype, backend)


def _open_feature_drafter(
    folder: Path, target: _Model, max_context: int | None
) -> tuple[ModelConfig, Checkpoint] | None:
    """Config and tensors of a drafter that reads the target's hidden states; None: it is none."""
    base, own = target.config, target.checkpoint
    if speculators.is_speculator(folder):
        config = speculators.read_drafter(folder, base, max_context)
        return config, speculators.open_drafter(folder, own, tied=base.tied)
    if eagle3.is_eagle3(folder):
        config = eagle3.read_drafter(folder, base, max_context)
        return config, eagle3.open_drafter(folder, own, tied=base.tied)
    if parallel_medusa.is_parallel_medusa(folder):
        config = parallel_medusa.read_drafter(folder, base, target.source.folder, max_context)
        return config, parallel_medusa.open_drafter(folder, own, tied=base.tied)
    if medusa.is_medusa(folder):
        return medusa.read_drafter(folder, base, max_context), medusa.open_drafter(folder)
    if eagle.is_eagle(folder):
        config = eagle.read_drafter(folder, base, max_context)
        return config, eagle.open_drafter(folder, own, tied=base.tied)
    return None


def _read_drafter(source: Source, target: _Model, options: _Options) -> _Model:
    """Plan a drafter; one that reads the target's hidden states has the target's dtype."""
    found = _open_feature_drafter(source.folder, target, options.max_context)
    if found is None:
        return _read_model(source, options, options.draft_backend)
    if options.draft_backend != options.backend:
        raise BuildError(
            f"{source.model!r} reads the target's hidden states, so it runs where the target does; "
            "leave out --draft-backend"
        )
    return _plan(source, *found, target.lowered.plan.dtype, options.backend)


def _planned_again(model: _Model, config: ModelConfig, checkpoint: Checkpoint) -> _Model:
    plan = model.lowered.plan
    again = _plan(model.source, config, checkpoint, plan.dtype, plan.backend)
    return replace(again, adapter=model.adapter)


def _keeping(target: _Model, drafts: Sequence[_Model]) -> tuple[_Model, list[_Model]]:
    """Target and drafters, planned so that one keeps the hidden states that the others read."""
    first: dict[tuple[int, ...], int] = {}
    kept: tuple[int, ...] = ()
    for draft in drafts:
        if draft.config.features is not None and draft.config.features.layers not in first:
            first[draft.config.features.layers] = len(kept)
            kept += draft.config.features.layers
    if not kept:
        return target, list(drafts)

    def placed(draft: _Model) -> _Model:
        if draft.config.features is None:
            return draft
        place = Kept(first[draft.config.features.layers], len(kept))
        return _planned_again(draft, replace(draft.config, kept=place), draft.checkpoint)

    config = replace(target.config, kept_layers=kept)
    return _planned_again(target, config, target.checkpoint), [placed(draft) for draft in drafts]


def _streaming(target: _Model, adapter: Source) -> _Model:
    """The target with the streams of an adapter."""
    if target.config.streaming is not None:
        raise BuildError(
            f"{adapter.model!r} is a second streaming adapter; a target has the streams of one"
        )
    streaming = read_adapter(adapter.folder, target.config, target.source.folder)
    config = replace(target.config, streaming=streaming)
    with_streams = with_adapter(target.checkpoint, adapter.folder)
    return replace(_planned_again(target, config, with_streams), adapter=adapter)


def _plan(
    source: Source, config: ModelConfig, checkpoint: Checkpoint, dtype: DType, backend: str
) -> _Model:
    """Plan a model and check its tensors and tokenizer. Raises BuildError."""
    graph = fuse(graph_of(config, dtype))
    if backend == "cuda":
        graph = tiled(graph, config, dtype)
    checkpoint.check(_parameters(graph))
    vocabulary = read_vocabulary(source.folder, config.vocab)
    table = token_table(source.folder / TOKENIZER, config.vocab) if vocabulary else b""
    lowered = lower(graph, config, dtype, backend, table)
    hashes = source_hashes(checkpoint)
    return _Model(source, config, checkpoint, lowered, vocabulary, hashes)


def _check_draft(target: _Model, draft: _Model) -> None:
    """Raise BuildError unless the draft speaks the target's tokens; a mask may come behind them."""
    own_mask = draft.config.mask_token == target.config.vocab
    if draft.config.vocab != target.config.vocab + own_mask:
        raise BuildError(
            f"the draft {draft.source.model!r} has {draft.config.vocab} tokens and the target "
            f"{target.config.vocab}; use a draft trained with the target's tokenizer"
        )
    if target.vocabulary is not None and draft.vocabulary is not None:
        check_same_vocabulary(target.vocabulary, draft.vocabulary)


def _write_model(path: Path, model: _Model, advance: Callable[[int], object]) -> dict[str, Any]:
    """Write an engine; return its entry in the manifest. `advance` is told bytes written."""

    def counted(tensor: Tensor) -> Iterator[NDArray[Any]]:
        for chunk in tensor_chunks(model.checkpoint, tensor):
            yield chunk
            advance(chunk.nbytes)

    chunks = (counted(tensor) for tensor in model.lowered.tensors)
    sha256 = write_engine(path, model.lowered.plan, model.meta, chunks)
    return {
        "bytes": path.stat().st_size,
        "sha256": sha256,
        "dtype": model.lowered.plan.dtype.value,
        "context": model.config.context,
        "source": {
            "model": model.source.model,
            "revision": model.source.revision,
            "sha256": model.hashes,
        },
    }


def _write_bundle(
    folder: Path, target: _Model, drafts: list[_Model], command: str, *, progress: bool
) -> None:
    """Write all files of a bundle. Raises BuildError and OSError."""
    from tqdm import tqdm

    size = sum(each.engine_bytes for each in (target, *drafts))
    disable = None if progress else True  # None: off unless stderr is a terminal
    bar = tqdm(total=size, desc="build", unit="B", unit_scale=True, disable=disable, leave=False)
    with bar:
        (folder / DRAFTER_FOLDER).mkdir()
        copy_tokenizer(target.source.folder, folder)
        target_entry = _write_model(folder / TARGET_FILE, target, bar.update)
        target_entry |= target.streams_entry
        draft_entries = [
            {
                "name": each.drafter_name,
                "method": each.method,
                "file": each.drafter_file,
                **_write_model(folder / each.drafter_file, each, bar.update),
                **each.heads_entry,
            }
            for each in drafts
        ]
        plan = target.lowered.plan
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "specrt_version": specrt_version(),
            "backend": plan.backend,
            "dtype": plan.dtype.value,
            "vocab": plan.vocab,
            "context": plan.context,
            "target": {"file": TARGET_FILE, **target_entry},
            "drafters": draft_entries,
            "curves": None,
            "command": command,
        }
        write_manifest(folder, manifest)


def _read_drafters(
    target: _Model, models: Sequence[str | os.PathLike[str]], options: _Options, *, progress: bool
) -> tuple[_Model, list[_Model]]:
    """Plan drafters, one of each kind, and the target as they need it. Raises BuildError."""
    drafts: dict[str, _Model] = {}
    for model in models:
        source = find_model(model, progress=progress)
        if is_adapter(source.folder):
            target = _streaming(target, source)
            continue
        draft = _read_drafter(source, target, options)
        _check_draft(target, draft)
        other = drafts.setdefault(draft.drafter_name, draft)
        if other is not draft:
            raise BuildError(
                f"the drafts {other.source.model!r} and {draft.source.model!r} are both for the "
                f"method {draft.method}; a bundle has one drafter for each method"
            )
    return _keeping(target, list(drafts.values()))


def _tune(folder: Path, *, progress: bool) -> None:
    """Measure step times. Raises BuildError if the bundle cannot be run here."""
    from specrt.eval import curves

    try:
        curves.tune(folder, progress=progress)
    except (Error, MemoryError) as error:
        raise BuildError(
            f"this machine cannot run the bundle: {error}. To build it for another one, do not "
            "measure step times (--no-tune)"
        ) from error


def build(
    model: str | os.PathLike[str],
    *,
    draft: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    out: str | os.PathLike[str],
    backend: str = "cpu",
    draft_backend: str | None = None,
    dtype: str | None = None,
    progress: bool = True,
    max_context: int | None = None,
    tune: bool = True,
) -> Path:
    """Compile a model, and draft models if given, into a bundle at `out`; return its path.

    `model` and `draft` are local Hugging Face folders (safetensors) or hub ids; of drafts there may
    be one that drafts token by token, one that fills masks (its config has `pard_token`), and of
    those that read the target's hidden states one of each kind (a P-EAGLE folder of vLLM's
    speculators, a folder of `specrt train parallel-medusa`, an EAGLE folder, Medusa heads); and a
    streaming adapter, which becomes a part of the target (`specrt train streaming`).
    `backend` is "cpu" or "cuda", which takes bf16 alone; `draft_backend`, if not None, is "cpu" for
    drafters on the CPU beside a target on a GPU. `dtype` is "bf16" or "f32"; None means
    bf16 unless the checkpoint is f32. `max_context` limits the positions of a sequence below what
    the model allows. `tune` measures step times on this machine, which
    draft lengths are chosen from; `specrt tune` measures again. An existing bundle at `out` is
    replaced in one step when the new one is complete; if anything fails it stays as it is. Raises
    BuildError, a ValueError, that says what is wrong and what to do.
    """
    options = _Options(backend, draft_backend or backend, dtype, max_context)
    options.check()
    place = Path(out).resolve()
    check_replaceable(place)
    target = _read_model(find_model(model, progress=progress), options, backend)
    if target.vocabulary is None:
        raise BuildError(
            f"{target.source.folder} has no {TOKENIZER}; save it there with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    named = () if draft is None else (draft,) if isinstance(draft, str | os.PathLike) else draft
    target, drafts = _read_drafters(target, named, options, progress=progress)
    command = options.command(os.fspath(model), [os.fspath(each) for each in named], os.fspath(out))
    with staged(place, sum(each.engine_bytes for each in (target, *drafts))) as folder:
        _write_bundle(folder, target, drafts, command, progress=progress)
        if tune:
            _tune(folder, progress=progress)
    return place

"""Builds a folder of TensorRT-LLM engines: the plan, the checkpoints, and the engines of them."""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

from specrt.build.bundle import (
    TENSORRT_LLM_FORMAT,
    check_replaceable,
    specrt_version,
    write_manifest,
)
from specrt.build.errors import BuildError
from specrt.build.fields import Fields
from specrt.build.hf import CONFIG
from specrt.build.json_file import read_json
from specrt.build.medusa import is_medusa
from specrt.build.source import Source, find_model
from specrt.build.speculators import is_speculator
from specrt.build.staging import staged
from specrt.build.tokenizer import (
    TOKENIZER,
    check_same_vocabulary,
    copy_tokenizer,
    read_vocabulary,
)
from specrt.trtllm import engine, preflight
from specrt.trtllm.checkpoint import Model, read_model, write_checkpoint
from specrt.trtllm.roles import PROGRAM, Limits, Lookahead, Role, build_command
from specrt.trtllm.unified import Dtype, Embedding, checkpoint_config

FORMAT_VERSION = 1
CHECKPOINT, ENGINE = "checkpoint", "engine"
_READY_ROLES = {"MedusaForCausalLM": Role.MEDUSA, "EagleForCausalLM": Role.EAGLE}


@dataclass(frozen=True)
class Options:
    """What to build. `dtype` None: of the checkpoint, see `checkpoint.read_model`."""

    ranks: int = 1
    dtype: Dtype | None = None
    embedding: Embedding = Embedding.WHOLE
    max_context: int | None = None
    max_draft_len: int | None = None  # None: the default
    lookahead: Lookahead | None = None

    @property
    def words(self) -> list[str]:
        """What says the same on the command line of `specrt build`."""
        words = ["--backend", "tensorrt-llm", "--tensor-parallel", str(self.ranks)]
        words += ["--dtype", self.dtype.name_here] if self.dtype else []
        words += ["--shard-embedding"] if self.embedding is Embedding.SHARDED else []
        words += ["--max-context", str(self.max_context)] if self.max_context else []
        words += ["--max-draft-len", str(self.max_draft_len)] if self.max_draft_len else []
        if self.lookahead is not None:
            words += ["--lookahead", ",".join(map(str, astuple(self.lookahead)))]
        return words


@dataclass(frozen=True)
class Part:
    """One model of the folder, and its engine."""

    name: str  # its folder in the output
    role: Role
    source: Source
    config: dict[str, Any]  # config.json of its checkpoint
    limits: Limits
    model: Model | None  # None: `source` is a TensorRT-LLM checkpoint already

    @property
    def ranks(self) -> int:
        """Files of the checkpoint and of the engine."""
        return int(self.config["mapping"]["world_size"])

    def checkpoint(self, out: Path) -> Path:
        """Where its checkpoint is when the output folder is at `out`."""
        return self.source.folder if self.model is None else out / self.name / CHECKPOINT

    def command(self, out: Path) -> list[str]:
        """The command that makes its engine."""
        dtype = next(each for each in Dtype if each.config_name == self.config["dtype"])
        folders = str(self.checkpoint(out)), str(out / self.name / ENGINE)
        return build_command(self.role, *folders, dtype, self.limits)


@dataclass(frozen=True)
class Plan:
    """What is built: the target, then the draft model if there is one."""

    parts: tuple[Part, ...]
    words: tuple[str, ...]  # of the `specrt build` that does it, without the output

    def rebuild(self, out: Path, machine: preflight.Machine | None) -> str:
        """The command line that builds the same folder; without a machine only the checkpoints."""
        how = ["--checkpoint-only"]
        if machine is not None:
            how = ["--trtllm-python", machine.interpreter]
        return shlex.join([*self.words, *how, "-o", str(out)])


def plan(
    model: str | os.PathLike[str],
    drafts: Sequence[str | os.PathLike[str]] = (),
    options: Options | None = None,
    *,
    progress: bool = True,
) -> Plan:
    """Read and check all models. Raises BuildError.

    `model` is a Hugging Face folder or hub id, or a folder with a TensorRT-LLM checkpoint. `drafts`
    is empty, or has one draft model, or one folder with Medusa heads.
    """
    options = options or Options()
    words = ["specrt", "build", os.fspath(model)]
    for draft in drafts:
        words += ["--draft", os.fspath(draft)]
    parts = _parts(model, drafts, options, progress=progress)
    return Plan(tuple(parts), (*words, *options.words))


def _parts(
    model: str | os.PathLike[str],
    drafts: Sequence[str | os.PathLike[str]],
    options: Options,
    *,
    progress: bool,
) -> list[Part]:
    if len(drafts) > 1 or (drafts and options.lookahead is not None):
        raise BuildError(
            "an engine of TensorRT-LLM verifies in one way: give one draft model, one folder with "
            "Medusa heads, or a lookahead"
        )
    source = find_model(model, progress=progress)
    if not drafts:
        role = Role.AUTOREGRESSIVE if options.lookahead is None else Role.LOOKAHEAD
        return [_part("target", role, source, options)]
    draft = find_model(drafts[0], progress=progress)
    if is_medusa(draft.folder):
        return [_part("target", Role.MEDUSA, source, options, heads=draft)]
    if is_speculator(draft.folder):
        raise BuildError(
            f"{draft.model!r} is a drafter for vLLM's speculators; it has no place in TensorRT-LLM"
        )
    parts = [
        _part("target", Role.TARGET, source, options),
        _part("draft", Role.DRAFT, draft, options),
    ]
    _check_pair(*parts)
    return parts


def _part(
    name: str, role: Role, source: Source, options: Options, heads: Source | None = None
) -> Part:
    """Read one model. Raises BuildError."""
    ready = read_json(source.folder / CONFIG) if (source.folder / CONFIG).exists() else {}
    if "architecture" in ready and "mapping" in ready:
        if heads is not None:
            raise BuildError(
                f"{source.folder} is a TensorRT-LLM checkpoint; Medusa heads go into one when it "
                "is made of a Hugging Face folder"
            )
        return _ready_part(name, role, source, ready, options)
    model = read_model(
        source,
        options.ranks,
        dtype=options.dtype,
        embedding=options.embedding,
        heads=heads,
        max_context=options.max_context,
    )
    config = checkpoint_config(model.config, model.layout)
    limits = _limits(model.config.context, options)
    return Part(name, role, source, config, limits, model)


def _ready_part(
    name: str, role: Role, source: Source, config: dict[str, Any], options: Options
) -> Part:
    """A TensorRT-LLM checkpoint of other making: ModelOpt's, or EAGLE's from NVIDIA's converter."""
    fixed = options.dtype is not None or options.embedding is not Embedding.WHOLE
    mapping = Fields(f"{source.folder / CONFIG}: mapping", config["mapping"])
    ranks = mapping.integer("tp_size", 64, 1)
    if fixed or options.ranks not in (1, ranks) or mapping.integer("pp_size", 64, 1) != 1:
        raise BuildError(
            f"{source.folder} is a TensorRT-LLM checkpoint of {ranks} ranks; its layout and type "
            "are fixed, and pipeline parallel ones are not supported"
        )
    quantization = config.get("quantization") or {}
    dtypes = [each.config_name for each in Dtype]
    if any(quantization.get(key) for key in ("quant_algo", "kv_cache_quant_algo")):
        raise BuildError(f"{source.folder} is quantised, which specrt does not choose flags for")
    if config.get("dtype") not in dtypes:
        raise BuildError(f"{source.folder}: dtype {config.get('dtype')!r} is not in {dtypes}")
    own = _READY_ROLES.get(str(config["architecture"]))
    if own is not None and role is not Role.AUTOREGRESSIVE:
        raise BuildError(f"{source.folder} is a checkpoint for {own.value}, not for {role.value}")
    fields = Fields(str(source.folder / CONFIG), config)
    limits = _limits(fields.integer("max_position_embeddings", 1 << 22), options)
    config = {**config, "mapping": {**config["mapping"], "world_size": ranks}}
    return Part(name, own or role, source, config, limits, None)


def _limits(context: int, options: Options) -> Limits:
    limits = Limits(min(context, options.max_context or context), lookahead=options.lookahead)
    if options.max_draft_len is not None:
        limits = replace(limits, max_draft_len=options.max_draft_len)
    limits.check()
    return limits


def _check_pair(target: Part, draft: Part) -> None:
    """Raise BuildError unless a draft model speaks the target's tokens."""
    vocab = target.config["vocab_size"]
    if draft.config["vocab_size"] != vocab:
        raise BuildError(
            f"the draft {draft.source.model!r} has {draft.config['vocab_size']} tokens and the "
            f"target {vocab}; use a draft trained with the target's tokenizer"
        )
    ours = read_vocabulary(target.source.folder, vocab)
    theirs = read_vocabulary(draft.source.folder, vocab)
    if ours is not None and theirs is not None:
        check_same_vocabulary(ours, theirs)


def describe(plan: Plan, out: Path) -> dict[str, Any]:
    """The plan as JSON: of every engine its role, its command, and its checkpoint's config."""
    return {
        "format": TENSORRT_LLM_FORMAT,
        "models": [
            {
                "name": part.name,
                "role": part.role.value,
                "source": part.source.model,
                "checkpoint_bytes": None if part.model is None else part.model.size,
                "command": part.command(out),
                "config": part.config,
            }
            for part in plan.parts
        ],
    }


def convert(plan: Plan, out: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """Write the checkpoints alone. Raises BuildError."""
    return _build(plan, out, None, progress=progress)


def build(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    interpreter: str,
    progress: bool = True,
) -> Path:
    """Write the checkpoints and build the engines with the TensorRT-LLM of `interpreter`.

    The folder at `out` appears when all is complete. Raises PreflightError before anything is
    written where TensorRT-LLM cannot build here, BuildError for all else.
    """
    machine = preflight.look(interpreter)
    preflight.check_build(machine)
    return _build(plan, out, machine, progress=progress)


def _build(
    plan: Plan,
    out: str | os.PathLike[str],
    machine: preflight.Machine | None,
    *,
    progress: bool,
) -> Path:
    from tqdm import tqdm

    place, parts = Path(out).resolve(), plan.parts
    check_replaceable(place)
    if machine is None and all(part.model is None for part in parts):
        raise BuildError("all models are TensorRT-LLM checkpoints already; nothing to convert")
    size = sum(part.model.size for part in parts if part.model is not None)
    with staged(place, size if machine is None else 2 * size) as folder:
        disable = None if progress else True  # None: off unless stderr is a terminal
        bar = tqdm(total=size, desc="convert", unit="B", unit_scale=True, disable=disable)
        with bar:
            entries = [_convert(part, folder, bar.update) for part in parts]
        if machine is not None:
            for part, entry in zip(parts, entries, strict=True):
                entry["engine"] = _build_engine(part, folder, machine)
        target = parts[0].source.folder
        if (target / TOKENIZER).exists():
            copy_tokenizer(target, folder)
        manifest = {
            "format": TENSORRT_LLM_FORMAT,
            "format_version": FORMAT_VERSION,
            "specrt_version": specrt_version(),
            "backend": "tensorrt-llm",
            "vocab": parts[0].config["vocab_size"],
            "context": min(part.limits.max_seq_len for part in parts),
            "machine": None if machine is None else asdict(machine),
            "models": [
                {**entry, "command": part.command(place)}
                for part, entry in zip(parts, entries, strict=True)
            ],
            "command": plan.rebuild(Path(out), machine),
        }
        write_manifest(folder, manifest)
    return place


def _convert(part: Part, folder: Path, advance: Any) -> dict[str, Any]:
    """Write one checkpoint; return its entry in the manifest."""
    entry: dict[str, Any] = {"name": part.name, "role": part.role.value, "ranks": part.ranks}
    if part.model is None:
        (folder / part.name).mkdir()
        entry["checkpoint"] = {"folder": str(part.source.folder)}
    else:
        entry["checkpoint"] = write_checkpoint(part.model, part.checkpoint(folder), advance)
    entry["engine"] = None
    return entry


def _build_engine(part: Part, folder: Path, machine: preflight.Machine) -> dict[str, Any]:
    """Build one engine; return its entry in the manifest. Raises BuildError."""
    words = part.command(folder)
    assert words[0] == PROGRAM
    assert machine.command is not None
    engine.run_program([machine.command, *words[1:]])
    return engine.check_engine(folder / part.name / ENGINE, part.ranks)


def plan_text(plan: Plan, out: Path) -> str:
    """The commands, and the plan as JSON."""
    commands = [shlex.join(part.command(out)) for part in plan.parts]
    return "\n".join([*commands, "", json.dumps(describe(plan, out), indent=2)])

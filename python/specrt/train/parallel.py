"""Training of a parallel drafter (ParallelSpec, arXiv 2410.05589; PARD, arXiv 2504.18583).

A drafter (`Trainee`) learns to fill `depths` positions in one forward, in the layout of
`group_mask`; `ParallelOptions` trains a small causal LM. With one depth this is the distillation of
a plain draft model. The run is counted in steps: what a step learns follows from the options, the
data and its number, so a run that was interrupted ends with the weights of one that was not
(exactly, on the same devices).
"""

from __future__ import annotations

import itertools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel
from transformers.utils import logging as hub_logging

from specrt.build.files import weights_hash
from specrt.train.data import Example
from specrt.train.feature_cache import FeatureCache, FeatureShape
from specrt.train.feature_trainee import FeatureTrainee
from specrt.train.generate import TOP
from specrt.train.group_batches import GroupBatch, batch_plan, make_group_batch
from specrt.train.group_mask import Cod
from specrt.train.mask_drafter import mask_token, read_config, start_drafter
from specrt.train.mask_trainee import MaskTrainee
from specrt.train.parallel_report import Check, Report, resume_report, write_report
from specrt.train.position_acceptance import measure_positions
from specrt.train.rows import Row, check_tokens, example_of, read_examples, shared_tokenizer
from specrt.train.schedule import (
    OPTIMIZERS,
    Optimizers,
    Progress,
    Schedule,
    load_checkpoint,
    save_checkpoint,
)
from specrt.train.trainee import TargetView, Trainee
from specrt.train.validation import Prompts, file_prompts, greedy_paths, hold_out

log = logging.getLogger(__name__)

LOSSES = ("kl", "ce")
PRECISIONS = ("bf16", "f32")
# Elements of a sequence beyond which a GPU gets a block mask instead of a dense one.
_DENSE_ELEMENTS = 4096
_COD = Cod(0.7, 0.2)
_SCHEDULE = Schedule(0.03, 0.7)


@dataclass(frozen=True, kw_only=True)
class RunOptions(ABC):
    """What a run of any kind of drafter depends on.

    Training starts from the folder `draft`, or from random weights. `batch_tokens` are real tokens
    (padding included) of a step on each device; masks come on top. `feature_cache_bytes` bounds the
    file on each device in which hidden states of the target are kept for drafters that read them.
    """

    target: Path
    data: tuple[Path, ...]
    out: Path
    draft: Path | None = None
    validation: tuple[Path, ...] = ()
    loss: str = "kl"
    steps: int = 2000
    batch_tokens: int = 4096
    max_length: int = 512
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    schedule: Schedule = _SCHEDULE
    precision: str = "bf16"
    check_s: float = 240.0
    feature_cache_bytes: int = 16_000_000_000
    validation_prompts: int = 16
    validation_tokens: int = 128
    seed: int = 1

    @property
    @abstractmethod
    def depths(self) -> int:
        """Depths of the layout."""

    @property
    @abstractmethod
    def cod(self) -> Cod:
        """Which anchors each depth keeps."""

    @abstractmethod
    def layout_numbers(self) -> dict[str, object]:
        """What the report says of layout and weights, as JSON."""

    @abstractmethod
    def mean_loss(self, losses: Tensor, depth_of: Tensor) -> Tensor:
        """One loss from those (n) of elements of depths (n)."""

    @abstractmethod
    def trainee(self, target: PreTrainedModel) -> Trainee:
        """The drafter that training starts from. Raises ValueError."""

    @property
    def other_rate(self) -> float:
        """Learning rate of embedding, head and norms."""
        return self.learning_rate

    def baseline(self) -> Trainee | None:
        """The draft that training starts from, if it drafts token by token."""
        return None

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        choices = {"loss": LOSSES, "precision": PRECISIONS, "optimizer": OPTIMIZERS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; there are {', '.join(known)}"
                )
        for name in ("depths", "steps", "batch_tokens", "validation_prompts", "validation_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_length < 2:
            raise ValueError(f"max_length must be at least 2, not {self.max_length}")
        if self.feature_cache_bytes < 0:
            raise ValueError(f"a feature cache has 0 bytes or more, not {self.feature_cache_bytes}")
        if self.learning_rate <= 0.0:
            raise ValueError(f"the learning rate must be positive, not {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class GroupOptions(RunOptions):
    """A drafter that fills `depths` positions of every anchor that the drop-token rule keeps.

    `depth_decay` weighs depth d by its d-th power: a late draft counts only if those before agree.
    """

    depths: int = 8
    depth_decay: float = 0.9
    cod: Cod = _COD

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        if not 0.0 < self.depth_decay <= 1.0:
            raise ValueError(f"depth_decay must be in (0, 1], not {self.depth_decay}")

    def layout_numbers(self) -> dict[str, object]:
        """Decay and drop-token rule."""
        return {
            "depth_decay": self.depth_decay,
            "cod_ratio": self.cod.ratio,
            "cod_floor": self.cod.floor,
        }

    def mean_loss(self, losses: Tensor, depth_of: Tensor) -> Tensor:
        """Mean with weights depth_decay^depth."""
        weights = self.depth_decay**depth_of
        return (weights * losses).sum() / weights.sum()


@dataclass(frozen=True, kw_only=True)
class ParallelOptions(GroupOptions):
    """A small causal LM that learns to fill masks, or with one depth to draft as its target would.

    The defaults suit a draft model of some hundred million.
    """

    draft: Path = field()  # must be given here
    layers: int | None = None
    scratch: bool = False

    def trainee(self, target: PreTrainedModel) -> MaskTrainee:
        """The small model with a mask token; see `start_drafter`."""
        vocab: int = target.config.vocab_size
        own = mask_token(read_config(self.draft))
        if self.depths == 1:
            if own is not None:
                raise ValueError(f"{self.draft} fills masks; train it with: train parallel")
            plain = start_drafter(self.draft, vocab, self.layers, self.scratch)
            return MaskTrainee(plain, 1)
        mask = vocab if own is None else own
        causal = start_drafter(self.draft, max(vocab, mask + 1), self.layers, self.scratch)
        causal.config.pard_token = mask
        return MaskTrainee(causal, self.depths)

    def baseline(self) -> MaskTrainee | None:
        """The small model as it is."""
        if self.scratch or mask_token(read_config(self.draft)) is not None:
            return None
        return MaskTrainee(LlamaForCausalLM.from_pretrained(self.draft, dtype=torch.float32), 1)


class Run:
    """One run: the models, the data, and where the checkpoint and the results go."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.work = options.out / "work"
        self.accelerator = Accelerator(mixed_precision="no")  # `loss` casts; checks are in float32
        torch.manual_seed(options.seed)
        self.target = load_target(options.target).to(self.accelerator.device)
        self.trainee = options.trainee(self.target)
        self.trainee.module.train().to(self.accelerator.device)
        elements = options.max_length * options.depths
        flex = self.accelerator.device.type == "cuda" and elements > _DENSE_ELEMENTS
        self.attention = "flex_attention" if flex else "sdpa"
        self.trainee.set_attention(self.attention)
        self.model = self.accelerator.prepare(self.trainee.module)
        rate = options.learning_rate
        self.opts = Optimizers(self.trainee.module, rate, options.other_rate, options.optimizer)
        self.target_hash = weights_hash(options.target)
        with self.accelerator.main_process_first():  # it writes what the others find
            self.examples, self.paths = self._data()
        self.features = self._feature_cache()

    def _data(self) -> tuple[list[Row], list[Example]]:
        options = self.options
        self.work.mkdir(parents=True, exist_ok=True)
        tokenizer = shared_tokenizer(options.target, options.draft or options.target, self.work)
        rows = read_examples(options.data, tokenizer, _end_token(self.target), options.max_length)
        shortest = self.trainee.begin + 2  # an input and its label
        rows = [one for one in rows if len(example_of(one).ids) >= shortest]
        if not rows:
            raise ValueError(f"no training row has {shortest} tokens")
        check_tokens(rows, self.target.config.vocab_size)
        most, longest = options.validation_prompts, options.max_length
        prompts: Prompts
        if options.validation:
            prompts = file_prompts(options.validation, tokenizer, most, longest)
        else:
            rows, prompts = hold_out(rows, most)
        kept = self.work / "validation.json"
        paths = greedy_paths(
            self.target, self.target_hash, prompts, options.validation_tokens, kept
        )
        return rows, paths

    def batches(self, done: int) -> Iterator[GroupBatch]:
        """This device's batches from step `done` on."""
        options, rank = self.options, self.accelerator.process_index
        plan = batch_plan(self.examples, options.batch_tokens, options.seed)
        mine = itertools.islice(plan, rank, None, self.accelerator.num_processes)
        for step, picked in enumerate(mine):
            if step >= done:
                random = np.random.default_rng((options.seed, step, rank))
                rows = [self.examples[index] for index in picked]
                batch = make_group_batch(
                    rows, options.depths, options.cod, random, begin=self.trainee.begin
                )
                yield replace(batch, examples=tuple(picked))

    def _feature_cache(self) -> FeatureCache | None:
        options = self.options
        if not isinstance(self.trainee, FeatureTrainee) or options.feature_cache_bytes == 0:
            return None
        return FeatureCache(
            self.work / f"features-{self.accelerator.process_index}.bin",
            self.examples,
            FeatureShape(
                width=self.trainee.width(self.target),
                dtype=torch.bfloat16 if options.precision == "bf16" else torch.float32,
                best=min(TOP, self.target.config.vocab_size) if options.loss == "kl" else 0,
            ),
            begin=self.trainee.begin,
            limit=options.feature_cache_bytes,
            key={"target": self.target_hash, **self.trainee.numbers()},
        )

    def view(self, batch: GroupBatch) -> TargetView:
        """What the target gives for a batch of `batches`."""

        def look() -> TargetView:
            return self.trainee.view(self.target, batch, teach=self.options.loss == "kl")

        return look() if self.features is None else self.features.view(batch, look)

    def loss(self, batch: GroupBatch) -> Tensor:
        """Forward of one batch, and its mean loss."""
        batch = self.trainee.learned(batch.to(self.accelerator.device))
        seen = self.trainee.seen(batch, self.attention)
        view = self.view(batch)
        bf16 = self.options.precision == "bf16"
        with torch.autocast(batch.ids.device.type, dtype=torch.bfloat16, enabled=bf16):
            losses = self.trainee.losses(self.model, batch, seen, view)
        return self.options.mean_loss(losses, batch.depth_of)

    def step(self, batch: GroupBatch, factor: float) -> float:
        """One update; returns its loss."""
        loss = self.loss(batch)
        self.accelerator.backward(loss)
        self.opts.step(factor)
        return loss.item()

    def report(self) -> Report:
        """A report without checks."""
        options = self.options
        return Report(
            target=options.target.resolve().name,
            target_sha256=self.target_hash,
            start="random weights" if options.draft is None else options.draft.resolve().name,
            depths=options.depths,
            kind=self.trainee.kind,
            does=self.trainee.does,
            parameters=sum(
                one.numel() for one in self.trainee.module.parameters() if one.requires_grad
            ),
            data=tuple(path.name for path in options.data),
            options=training_options(options) | self.trainee.numbers(),
            validation_prompts=len(self.paths),
            baseline=self.baseline(),
            checks=(),
        )

    def baseline(self) -> Check | None:
        """The check of the draft that training starts from, if it drafts token by token."""
        plain = self.options.baseline() if self.accelerator.is_main_process else None
        if plain is None:
            return None
        plain.module.to(self.accelerator.device)
        measured = measure_positions(plain, self.target, self.paths, self.trainee.drafts)
        return Check(0, 0, 0.0, measured.by_position, measured.mean_length)

    def check(self, progress: Progress, loss: float) -> Check:
        """Measure the validation slice; the drafter's attention is dense here, paths are short."""
        self.trainee.set_attention("sdpa")
        measured = measure_positions(self.trainee, self.target, self.paths, self.trainee.drafts)
        self.trainee.set_attention(self.attention)
        check = Check(
            progress.steps, progress.tokens, loss, measured.by_position, measured.mean_length
        )
        log.info("%s", check.line())
        return check

    def save(self, progress: Progress, report: Report) -> None:
        """Write the folder of the drafter if the last check is the best one, report, checkpoint."""
        if report.best is report.checks[-1]:
            self.trainee.export(self.options.target, self.options.out)
        write_report(report, self.options.out)
        # Last, so that a run that goes on from it finds its folder and report.
        save_checkpoint(self.work / "checkpoint.pt", self.trainee.module, self.opts, progress)


def training_options(options: RunOptions) -> dict[str, object]:
    """The numbers of a run that its report names, as JSON."""
    return {
        "loss": options.loss,
        **options.layout_numbers(),
        "steps": options.steps,
        "batch_tokens": options.batch_tokens,
        "max_length": options.max_length,
        "optimizer": options.optimizer,
        "learning_rate": options.learning_rate,
        "warm_share": options.schedule.warm_share,
        "decay_share": options.schedule.decay_share,
        "precision": options.precision,
        "seed": options.seed,
    }


def load_target(folder: Path) -> PreTrainedModel:
    """The target, in evaluation mode, in its own dtype. Raises ValueError."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no Hugging Face model folder: it has no config.json")
    hub_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # ours is the one bar
    dtype = "auto" if torch.cuda.is_available() else torch.float32
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.train(False)
    return model


def _end_token(target: PreTrainedModel) -> int:
    """The token that ends a response: the first one that ends generation. Raises ValueError."""
    ends = target.generation_config.eos_token_id
    if ends is None:
        raise ValueError("the target names no eos_token_id, which training responses end with")
    return int(ends[0] if isinstance(ends, list) else ends)


def train_parallel(options: RunOptions) -> Report:
    """Train a drafter, or go on from the checkpoint in `options.out`; returns what was measured.

    Writes into `out`: the drafter as a Hugging Face folder with a model card, `training.json` and
    `training.png` of loss and acceptance, and `work/` with the checkpoint.

    Raises:
        ValueError: an option, a model or the data is not fit for it; the message says which.
    """
    run = Run(options)
    main = run.accelerator.is_main_process
    report = resume_report(options.out, run.report())
    progress = load_checkpoint(run.work / "checkpoint.pt", run.trainee.module, run.opts)
    report = report.until(progress.steps)
    started = time.monotonic() - progress.used_s
    saved_s, smooth = progress.used_s, report.checks[-1].loss if report.checks else None
    steps, tokens = progress.steps, progress.tokens
    with tqdm(total=options.steps, initial=steps, unit="step", disable=not main) as bar:
        for batch in itertools.islice(run.batches(steps), max(0, options.steps - steps)):
            loss = run.step(batch, options.schedule.factor(steps / options.steps))
            smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
            steps, tokens = steps + 1, tokens + batch.elements * run.accelerator.num_processes
            bar.update()
            bar.set_postfix_str(f"{tokens / 1e6:.2f}M elements, loss {smooth:.3f}")
            used_s = time.monotonic() - started
            if main and (steps == options.steps or used_s - saved_s > options.check_s):
                saved_s = used_s
                progress = Progress(steps, tokens, used_s)
                report = report.with_check(run.check(progress, smooth))
                run.save(progress, report)
    run.accelerator.wait_for_everyone()
    if run.features is not None:
        run.features.remove()
    return report

"""The stages that make the pair of demo models: target, generate, draft, eval.

Each stage reads what the one before left in the output folder and can be run again alone:

    OUT/target/ OUT/draft/      Hugging Face folders
    OUT/README.md               the model card
    OUT/work/                   checkpoints, the target's answers, one JSON report per stage
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from specrt.train.acceptance import Acceptance, greedy_answer, measure_acceptance, pool
from specrt.train.card import write_card
from specrt.train.causal import Objective, TrainOptions, answer_loss, fit, next_token_loss
from specrt.train.data import (
    MIX,
    Batch,
    Example,
    batch_stream,
    encode_all,
    encode_rows,
    example_stream,
    find_file,
    load_training_text,
    read_rows,
    reference_answer,
    render_prompt,
)
from specrt.train.distill import answer_agreement, distillation_loss, mixed_stream, scored_stream
from specrt.train.folders import (
    DRAFT_SHAPE,
    TARGET_SHAPE,
    train_tokenizer,
    write_model,
    write_tokenizer,
)
from specrt.train.generate import generate_answers, load_shards
from specrt.train.llama import Llama, LlamaShape, load_llama
from specrt.train.schedule import Progress, Schedule

log = logging.getLogger(__name__)

STAGES = ("target", "generate", "draft", "eval")
# The tasks that the demo is about come first; their pooled numbers are reported too.
DEMO_TASKS = ("gsm8k", "wikisql", "e2e_nlg")
OTHER_TASKS = ("mbpp", "mt_bench")
# One answer in so many is kept out of distillation, to watch the agreement on.
HELD_EVERY = 40
LOSS_TASKS = ("gsm8k", "wikisql", "e2e_nlg", "mbpp", "dolly")


@dataclass(frozen=True)
class DemoOptions:
    """Folders, minutes of wall clock per stage, and the sizes of a step and of the evaluation."""

    data: Path
    init: Path | None
    out: Path
    target_minutes: float
    generate_minutes: float
    draft_minutes: float
    seed: int
    batch_tokens: int = 4096
    prompt_share: float = 0.1
    text_every: int = 5
    eval_prompts: int = 40
    eval_new: int = 128
    eval_drafts: int = 6


def _report(options: DemoOptions, stage: str, content: Mapping[str, Any]) -> None:
    path = options.out / "work" / f"{stage}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    log.info("%s: %s", stage, json.dumps(content))


def _start_model(options: DemoOptions, name: str, shape: LlamaShape) -> Llama:
    if options.init is None:
        return Llama(shape)
    return load_llama(options.init / name)


def _tokenizer(options: DemoOptions) -> Tokenizer:
    """The tokenizer of the run: the one of the first models, or one trained on the text."""
    folder = options.out / "target"
    if not (folder / "tokenizer.json").exists():
        if options.init is None:
            rows = [
                row for stem in MIX for row in read_rows(find_file(options.data / "train", stem))
            ]
            texts = (row.get("text") or f"{row['prompt']}\n{row['response']}" for row in rows)
            tokenizer = train_tokenizer(texts)
        else:
            tokenizer = Tokenizer.from_file(str(options.init / "target" / "tokenizer.json"))
        write_tokenizer(tokenizer, folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _loss_examples(options: DemoOptions, tokenizer: Tokenizer) -> dict[str, list[Example]]:
    examples = {}
    for task in LOSS_TASKS:
        rows = read_rows(find_file(options.data / "dev", task))[: options.eval_prompts]
        pairs = [{"prompt": row["prompt"], "response": reference_answer(row)} for row in rows]
        examples[task] = encode_rows(tokenizer, pairs)
    return examples


def _dev_prompts(options: DemoOptions, tokenizer: Tokenizer, task: str) -> list[NDArray[np.int32]]:
    rows = read_rows(find_file(options.data / "dev", task))[: options.eval_prompts]
    return encode_all(tokenizer, [render_prompt(row["prompt"]) for row in rows])


def _text_batches(
    options: DemoOptions, text: Mapping[str, Sequence[Example]], purpose: int, used: int
) -> Iterator[Batch]:
    """Batches of training text; a run that is resumed draws anew."""
    seed = (options.seed, purpose, used)
    examples = example_stream(text, MIX, seed)
    return batch_stream(examples, options.batch_tokens, options.prompt_share, seed)


def train_target(options: DemoOptions) -> None:
    """Train or continue the target on the weighted text; with no minutes, keep the first one."""
    tokenizer = _tokenizer(options)
    held = _loss_examples(options, tokenizer)
    if options.target_minutes == 0.0 and options.init is not None:
        for path in (options.init / "target").iterdir():
            shutil.copyfile(path, options.out / "target" / path.name)
        loss = answer_loss(load_llama(options.out / "target"), held)
        _report(options, "target", {**asdict(Progress(0, 0, 0.0)), "losses": {"kept": loss}})
        return
    text = load_training_text(options.data, tokenizer)
    model = _start_model(options, "target", TARGET_SHAPE)
    batches = partial(_text_batches, options, text, 0)
    train = TrainOptions(options.target_minutes, Schedule(0.04, 0.8), 1e-3, 1e-3, 2)
    losses = {"start": answer_loss(model, held)}
    checkpoint = options.out / "work" / "target.pt"
    objective = Objective(next_token_loss(model), partial(answer_loss, model, held))
    progress = fit(model, batches, objective, train, checkpoint)
    write_model(model, options.out / "target", options.out / "target")
    losses["trained"] = answer_loss(load_llama(options.out / "target"), held)
    _report(options, "target", {**asdict(progress), "losses": losses})


def generate(options: DemoOptions) -> None:
    """Let the target answer training prompts."""
    text = load_training_text(options.data, _tokenizer(options))
    target = load_llama(options.out / "target")
    folder = options.out / "work" / "answers"
    made = generate_answers(target, text, folder, options.generate_minutes, options.seed)
    _report(options, "generate", {"tokens": made})


def train_draft(options: DemoOptions) -> None:
    """Distil the draft on the target's answers and a share of the text."""
    text = load_training_text(options.data, _tokenizer(options))
    answers = load_shards(options.out / "work" / "answers")
    held = answers[::HELD_EVERY]
    learned = [one for index, one in enumerate(answers) if index % HELD_EVERY]
    target = load_llama(options.out / "target")
    draft = _start_model(options, "draft", DRAFT_SHAPE)

    def batches(used: int) -> Iterator[Batch]:
        scored = scored_stream(learned, options.batch_tokens, (options.seed, 1, used))
        return mixed_stream(
            scored, _text_batches(options, text, 2, used), target, options.text_every
        )

    train = TrainOptions(options.draft_minutes, Schedule(0.03, 0.85), 1e-3, 1e-3, 2)
    checkpoint = options.out / "work" / "draft.pt"
    objective = Objective(distillation_loss(draft), partial(answer_agreement, draft, held))
    progress = fit(draft, batches, objective, train, checkpoint)
    write_model(draft, options.out / "target", options.out / "draft")
    answer_tokens = sum(len(one.top_ids) for one in answers)
    _report(options, "draft", {**asdict(progress), "answer_tokens": answer_tokens})


def _dev_answers(
    options: DemoOptions, folder: Path, prompts: Mapping[str, Sequence[NDArray[np.int32]]]
) -> dict[str, list[list[int]]]:
    """Greedy answers of the target in `folder`, kept by the hash of its weights."""
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]
    path = options.out / "work" / f"dev-answers-{digest}.json"
    if not path.exists():
        target = load_llama(folder)
        fresh = {
            task: [greedy_answer(target, prompt, options.eval_new) for prompt in some]
            for task, some in prompts.items()
        }
        path.write_text(json.dumps(fresh))
    answers: dict[str, list[list[int]]] = json.loads(path.read_text())
    return answers


def measure_pair(options: DemoOptions, pair: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Acceptance per dev task of the models in `pair`, greedy in float32, and the pooled row."""
    tasks = DEMO_TASKS + OTHER_TASKS
    prompts = {task: _dev_prompts(options, tokenizer, task) for task in tasks}
    answers = _dev_answers(options, pair / "target", prompts)
    draft = load_llama(pair / "draft")
    results: dict[str, Acceptance] = {}
    for task in tasks:
        results[task] = measure_acceptance(draft, prompts[task], answers[task], options.eval_drafts)
        log.info("%s: %s", task, tokenizer.decode(answers[task][0]))
    results["pooled"] = pool([results[task] for task in DEMO_TASKS])
    return {
        task: {**asdict(one), "agreement": one.agreement, "mean_length": one.mean_length}
        for task, one in results.items()
    }


def evaluate(options: DemoOptions) -> None:
    """Measure the new pair, and once the first one beside it, and write the model card."""
    tokenizer = _tokenizer(options)
    if options.init is not None and not (options.out / "work" / "before.json").exists():
        _report(options, "before", measure_pair(options, options.init, tokenizer))
    _report(options, "after", measure_pair(options, options.out, tokenizer))
    write_card(options.out, options.eval_prompts, options.eval_drafts)


def run_demo(options: DemoOptions, stages: list[str]) -> None:
    """Run the named stages in their order."""
    (options.out / "work").mkdir(parents=True, exist_ok=True)
    actions = dict(zip(STAGES, (train_target, generate, train_draft, evaluate), strict=True))
    for stage in STAGES:
        if stage in stages:
            log.info("stage %s", stage)
            actions[stage](options)

"""The model card beside the demo models: sources, licences, recipe and measured numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specrt.train.data import MIX
from specrt.train.generate import GENERATE_MIX


@dataclass(frozen=True)
class Source:
    """Where a training file comes from and under which licence."""

    origin: str
    licence: str


SOURCES: Mapping[str, Source] = {
    "gsm8k_train": Source("openai/grade-school-math", "MIT"),
    "wikisql_train": Source("jkkummerfeld/text2sql-data (WikiSQL)", "BSD-3-Clause"),
    "sgd_d2t": Source("google-research-datasets/dstc8-schema-guided-dialogue", "CC BY-SA 4.0"),
    "e2e_train": Source("tuetschek/e2e-dataset, tuetschek/e2e-cleaning", "CC BY-SA 4.0"),
    "dolly_train": Source("nayohan/dolly-15k-analysis (Dolly 15k)", "CC BY-SA 3.0"),
    "gpteacher_codegen": Source("teknium1/GPTeacher (GPT-4 generated)", "MIT"),
    "gpteacher_roleplay": Source("teknium1/GPTeacher (GPT-4 generated)", "MIT"),
    "python_functions": Source("TheAlgorithms/Python, keon/algorithms", "MIT"),
    "dart_dev": Source("Yale-LILY/dart, by microsoft/LoRA", "MIT"),
    "mbpp_train": Source("MBPP, by FormulaMonks/llm-benchmarker-suite", "CC BY 4.0"),
    "sgd_dialogues": Source(
        "google-research-datasets/dstc8-schema-guided-dialogue", "CC BY-SA 4.0"
    ),
    "t0_subset": Source(
        "yizhongw/self-instruct (common_gen, wiki_bio, adversarial_qa, ropes, quoref, duorc, "
        "cosmos_qa; no news)",
        "MIT, CC BY-SA 3.0, CC BY-SA 4.0, CC BY 4.0",
    ),
    "advising_sql": Source("jkkummerfeld/text2sql-data (Advising)", "CC BY 4.0"),
    "aqua": Source("google-deepmind/AQuA", "Apache-2.0"),
    "plain_text": Source(
        "karpathy/char-rnn, google/gemma.cpp, nltk/nltk_data, rust-lang/book",
        "public domain; MIT/Apache-2.0 (Rust book)",
    ),
    "mts_dialog": Source("abachaa/MTS-Dialog", "CC BY 4.0"),
    "taskmaster4": Source("google-research-datasets/Taskmaster", "CC BY 4.0"),
    "self_instruct_seed": Source("yizhongw/self-instruct", "Apache-2.0"),
}

_HEAD = """\
# Demo models

Hugging Face folders (`LlamaForCausalLM`, bf16, tied embeddings, one byte-level BPE of 8192 tokens,
chat template in `tokenizer_config.json`; EOS is `<|end|>` or `<|endoftext|>`). They show what
speculative decoding does for speed. They are far too small to be trusted for content: SQL, short
descriptions and sums are well formed and often wrong.

| | `target/` | `draft/` |
|---|---|---|
| parameters | 15.7 M | 2.4 M |
| width, layers, ffn, heads / kv, head dim | 384, 8, 1024, 6 / 2, 64 | 192, 2, 512, 3 / 1, 64 |
"""

_RECIPE = """\
## Recipe

`tools/train_demo.py` made this pair; its stages are the steps below. {init}

1. {target}
2. Answers: the target answers training prompts, three batches of four greedy and one at
   temperature 0.8; {answer_tokens:.2f} M tokens, its 16 best tokens kept with each.
3. Draft: {tokens:.1f} M tokens, {steps} steps, {minutes:.0f} minutes: KL divergence to the target
   over its 16 best tokens and the rest as one, plus half the cross-entropy to its best token; four
   batches of five are answers, one is training text that the target scores. Muon 1e-3 for the
   matrices of the layers, AdamW 1e-3 for embedding and norms, bf16 autocast over f32 weights;
   3 % warm-up, constant, linear decay to zero over the last 85 %.
"""

_KEPT = "Target: the first target, unchanged."

_TRAINED = """\
Target: {tokens:.1f} M tokens of the text below (padding included; a tenth of the prompt
   tokens and all answer tokens are learned), {steps} steps of 8192 tokens, {minutes:.0f}
   minutes. Muon 1e-3 for the matrices of the layers, AdamW 1e-3 for embedding and norms, bf16
   autocast over f32 weights; 4 % warm-up, constant, linear decay to zero over the last 80 %."""


def _read(out: Path, stage: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "work" / f"{stage}.json").read_text())
    return content


def _amounts(report: Mapping[str, Any]) -> dict[str, float]:
    return {
        "tokens": report["tokens"] / 1e6,
        "steps": report["steps"],
        "minutes": report["used_s"] / 60,
    }


def _acceptance_table(pairs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    head = "| task | " + " | ".join(
        f"{name}: agreement | {name}: mean length | {name}: ended | {name}: looping"
        for name in pairs
    )
    lines = [head + " |", "|---|" + "--:|" * (4 * len(pairs))]
    for task in pairs["after"]:
        cells = []
        for results in pairs.values():
            row = results[task]
            share = [row[key] / row["prompts"] for key in ("ended", "looping")]
            cells += [f"{row['agreement']:.3f}", f"{row['mean_length']:.2f}"]
            cells += [f"{value:.2f}" for value in share]
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _loss_table(losses: Mapping[str, Mapping[str, float]]) -> str:
    lines = ["| task | " + " | ".join(losses) + " |", "|---|" + "--:|" * len(losses)]
    tasks = next(iter(losses.values()))
    for task in tasks:
        cells = " | ".join(f"{loss[task]:.3f}" for loss in losses.values())
        lines.append(f"| {task} | {cells} |")
    return "\n".join(lines) + "\n"


def _source_table() -> str:
    lines = [
        "| file | share of text | share of answers | source | licence |",
        "|---|--:|--:|---|---|",
    ]
    for stem, share in MIX.items():
        source = SOURCES[stem]
        answers = f"{GENERATE_MIX[stem]:.0%}" if stem in GENERATE_MIX else "-"
        lines.append(f"| {stem} | {share:.1%} | {answers} | {source.origin} | {source.licence} |")
    return "\n".join(lines) + "\n"


def answer_source_table() -> str:
    """The files whose prompts the target answers, by their share of the answers' tokens."""
    lines = ["| file | share | source | licence |", "|---|--:|---|---|"]
    for stem, share in GENERATE_MIX.items():
        source = SOURCES[stem]
        lines.append(f"| {stem} | {share:.0%} | {source.origin} | {source.licence} |")
    return "\n".join(lines) + "\n"


def write_card(out: Path, prompts: int, drafts: int) -> None:
    """Write `OUT/README.md` from the stage reports in `OUT/work`."""
    target, draft = _read(out, "target"), _read(out, "draft")
    names = [name for name in ("before", "after") if (out / "work" / f"{name}.json").exists()]
    pairs = {name: _read(out, name) for name in names}
    recipe = _RECIPE.format(
        init="Both models start from a first pair."
        if "before" in pairs
        else "Both models start from random weights.",
        target=_TRAINED.format(**_amounts(target)) if target["steps"] else _KEPT,
        answer_tokens=draft["answer_tokens"] / 1e6,
        **_amounts(draft),
    )
    text = "\n".join(
        (
            _HEAD,
            "## Acceptance\n",
            f"Dev prompts, greedy, f32, up to {prompts} prompts a task, at {drafts} drafted tokens",
            "a round. Agreement: share of the target's tokens that are the draft's most likely",
            "token. Mean length: tokens per target step, its own included. Ended: answers that end",
            "within 128 tokens; looping: answers in which a run of eight tokens comes three times.",
            "`pooled` sums gsm8k, wikisql and e2e_nlg. `before` is the pair that training started",
            "from.\n",
            _acceptance_table(pairs),
            "## Loss of the target\n",
            f"Nats per answer token of the first {prompts} dev references a task.\n",
            _loss_table(target["losses"]),
            recipe,
            "## Training text\n",
            "Shares of tokens that the sampler aims at. Rows that share a 12-word run with an",
            "evaluation prompt were dropped beforehand; dev prompts are not trained on.\n",
            _source_table(),
        )
    )
    (out / "README.md").write_text(text)

"""Training text: JSONL rows to token examples, a weighted stream of them, padded batches.

Rows are `{"prompt", "response", "source", ...}` or `{"text", "source", ...}`, in `.jsonl` or
`.jsonl.gz` files of `DATA/train`. Prompts follow the chat template of the demo tokenizer. Batches
group examples of about the same length, so that right padding under causal attention is the only
mask that is needed and only a few shapes occur (which lets the model be compiled).
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

END_OF_TEXT, END_OF_TURN, PAD = 0, 3, 5

# News summaries: fit for measuring, not for the training of a model that is given away.
EXCLUDED_SOURCES = ("t0-cnn",)

# Share of training tokens by file. Weighted to the tasks of the demo: SQL, one-sentence
# descriptions and sums, then code and chat; a little of the rest keeps the language broad.
MIX: Mapping[str, float] = {
    "gsm8k_train": 0.23,
    "wikisql_train": 0.21,
    "sgd_d2t": 0.10,
    "e2e_train": 0.07,
    "dolly_train": 0.07,
    "gpteacher_codegen": 0.06,
    "gpteacher_roleplay": 0.05,
    "python_functions": 0.05,
    "dart_dev": 0.03,
    "mbpp_train": 0.03,
    "sgd_dialogues": 0.03,
    "t0_subset": 0.02,
    "advising_sql": 0.01,
    "aqua": 0.01,
    "plain_text": 0.01,
    "mts_dialog": 0.01,
    "taskmaster4": 0.005,
    "self_instruct_seed": 0.005,
}

LENGTHS = (64, 128, 192, 256, 384, 512)


# What NumPy's generators are seeded with: a number, or several where streams must differ.
Seed = int | tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """Token ids; from index `start` on they are the answer (0 for running text)."""

    ids: NDArray[np.int32]
    start: int


@dataclass(frozen=True)
class Batch:
    """Inputs and next tokens (b, t), and the flat positions whose next token is learned."""

    ids: Tensor
    targets: Tensor
    positions: Tensor


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a `.jsonl` or `.jsonl.gz` file, excluded sources left out."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [json.loads(line) for line in lines]
    return [row for row in rows if not row.get("source", "").startswith(EXCLUDED_SOURCES)]


def find_file(folder: Path, stem: str) -> Path:
    """The file `stem.jsonl` or `stem.jsonl.gz`; raises FileNotFoundError."""
    for name in (f"{stem}.jsonl.gz", f"{stem}.jsonl"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"no {stem}.jsonl or {stem}.jsonl.gz in {folder}")


def render_prompt(prompt: str) -> str:
    """One user turn in the chat template, up to where the answer begins."""
    return f"<|user|>\n{prompt}<|end|>\n<|assistant|>\n"


def encode_all(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.int32]]:
    """Token ids of every text; special tokens written in a text are recognised."""
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.asarray(one.ids, dtype=np.int32) for one in encoded]


def encode_rows(tokenizer: Tokenizer, rows: Sequence[Mapping[str, Any]]) -> list[Example]:
    """Examples of all rows: answers end the turn; running text is cut to the longest length."""
    longest = LENGTHS[-1] + 1
    chats = [row for row in rows if "prompt" in row]
    prompts = encode_all(tokenizer, [render_prompt(row["prompt"]) for row in chats])
    answers = encode_all(tokenizer, [row["response"] for row in chats])
    examples = []
    for prompt, answer in zip(prompts, answers, strict=True):
        if len(prompt) <= longest - 16:
            ids = np.concatenate((prompt, answer, np.array([END_OF_TURN], dtype=np.int32)))
            examples.append(Example(ids[:longest], len(prompt)))
    for ids in encode_all(tokenizer, [row["text"] for row in rows if "text" in row]):
        closed = np.concatenate((ids, np.array([END_OF_TEXT], dtype=np.int32)))
        for begin in range(0, len(closed), longest - 1):
            piece = closed[begin : begin + longest]
            if len(piece) >= 16:
                examples.append(Example(piece, 0))
    return examples


def reference_answer(row: Mapping[str, Any]) -> str:
    """The first reference of a dev row, without the calculator marks of GSM8K."""
    reference = row["reference"]
    first = reference if isinstance(reference, str) else reference[0]
    return re.sub(r"<<.*?>>", "", first)


def load_training_text(data: Path, tokenizer: Tokenizer) -> dict[str, list[Example]]:
    """Examples of every file of the mix."""
    return {
        stem: encode_rows(tokenizer, read_rows(find_file(data / "train", stem))) for stem in MIX
    }


def bucket_length(length: int) -> int:
    """The smallest batch length that holds `length` inputs; raises ValueError."""
    for bucket in LENGTHS:
        if length <= bucket:
            return bucket
    raise ValueError(f"{length} tokens are more than {LENGTHS[-1]}")


def example_stream(
    text: Mapping[str, Sequence[Example]], mix: Mapping[str, float], seed: Seed
) -> Iterator[Example]:
    """Endless examples: files drawn so that their token shares follow `mix`, each in passes."""
    random = np.random.default_rng(seed)
    names = [name for name in mix if text.get(name)]
    mean = np.array([np.mean([len(one.ids) for one in text[name]]) for name in names])
    share = np.array([mix[name] for name in names]) / mean
    share /= share.sum()
    waiting: dict[str, list[int]] = {name: [] for name in names}
    while True:
        for pick in random.choice(len(names), size=1024, p=share):
            name = names[pick]
            if not waiting[name]:
                waiting[name] = random.permutation(len(text[name])).tolist()
            yield text[name][waiting[name].pop()]


def make_batch(
    examples: Sequence[Example], length: int, prompt_share: float, random: np.random.Generator
) -> Batch:
    """Pad examples to `length` inputs; learn all of each answer, and a sample of each prompt."""
    ids = np.full((len(examples), length + 1), PAD, dtype=np.int64)
    learned = np.zeros((len(examples), length), dtype=bool)
    for row, one in enumerate(examples):
        ids[row, : len(one.ids)] = one.ids
        learned[row, max(one.start - 1, 0) : len(one.ids) - 1] = True
        if one.start > 1:
            learned[row, : one.start - 1] = random.random(one.start - 1) < prompt_share
    tokens = torch.from_numpy(ids)
    return Batch(
        tokens[:, :-1].contiguous(),
        tokens[:, 1:].contiguous(),
        torch.from_numpy(np.flatnonzero(learned)),
    )


def batch_stream(
    examples: Iterator[Example], tokens: int, prompt_share: float, seed: Seed
) -> Iterator[Batch]:
    """Batches of `tokens` inputs each, in the order in which the lengths fill up."""
    random = np.random.default_rng(seed)
    filling: dict[int, list[Example]] = {length: [] for length in LENGTHS}
    for one in examples:
        length = bucket_length(len(one.ids) - 1)
        filling[length].append(one)
        if len(filling[length]) == tokens // length:
            yield make_batch(filling[length], length, prompt_share, random)
            filling[length] = []

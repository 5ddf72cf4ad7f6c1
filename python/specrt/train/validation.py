"""The validation slice: prompts with the target's own greedy answers, made once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from specrt.eval.prompts import encode_prompt, read_prompts
from specrt.tokenizer import Tokenizer
from specrt.train.data import Example
from specrt.train.rows import Row, example_of

Prompts = list[list[int]]


def file_prompts(files: Sequence[Path], tokenizer: Tokenizer, most: int, longest: int) -> Prompts:
    """The first `most` prompts of every file that are at most `longest` tokens. Raises ValueError.

    Fewer come from a file with fewer prompts of that length.
    """
    prompts: Prompts = []
    for path in files:
        encoded = [encode_prompt(tokenizer, one.text) for one in read_prompts(path, most)]
        prompts += [ids for ids in encoded if len(ids) <= longest]
    if not prompts:
        raise ValueError(f"no validation prompt is at most {longest} tokens long")
    return prompts


def hold_out(rows: Sequence[Row], most: int) -> tuple[list[Row], Prompts]:
    """Rows to train on, and the prompts of `most` rows that are spread over the others.

    At most a tenth is held out. Half of a running text is its prompt. Raises ValueError if there
    are fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError("there is one training row; a second one is needed for validation")
    count = max(1, min(most, len(rows) // 10))
    held = set(np.linspace(0, len(rows) - 1, count, dtype=int).tolist())
    prompts = []
    for index in sorted(held):
        one = example_of(rows[index])
        prompts.append(one.ids[: one.start or max(1, len(one.ids) // 2)].tolist())
    return [row for index, row in enumerate(rows) if index not in held], prompts


@torch.inference_mode()
def greedy_paths(
    target: PreTrainedModel, target_hash: str, prompts: Prompts, most_new: int, kept: Path
) -> list[Example]:
    """Prompts with the target's greedy answers of at most `most_new` tokens, their end included.

    The answers are kept in the JSON file `kept`, and used again for the same target and prompts.
    """
    asked = json.dumps([target_hash, most_new, prompts])
    key = hashlib.sha256(asked.encode()).hexdigest()
    if kept.is_file():
        stored = json.loads(kept.read_text())
        if stored["key"] == key:
            return _paths(prompts, stored["answers"])
    answers = []
    generate: Callable[..., Tensor] = target.generate  # type: ignore[assignment]
    for prompt in tqdm(prompts, desc="validation answers", unit="prompt"):
        ids = torch.tensor([prompt], device=target.device)
        path = generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=most_new
        )
        answers.append(path[0, len(prompt) :].tolist())
    kept.write_text(json.dumps({"key": key, "answers": answers}))
    return _paths(prompts, answers)


def _paths(prompts: Prompts, answers: Sequence[Sequence[int]]) -> list[Example]:
    return [
        Example(np.asarray([*prompt, *answer], dtype=np.int32), len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]

"""The target's own answers to training prompts, with the scores that a draft learns from.

Prompts of exactly the same length share a batch, so that nothing is padded or masked. For every
generated token the target's most likely `TOP` tokens are kept with their log-probabilities: a
draft can then be trained for many passes without running the target again. Answers are written in
shards; a restart continues behind the last whole shard.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from specrt.train.data import END_OF_TEXT, END_OF_TURN, Example
from specrt.train.llama import KvCache, Llama

log = logging.getLogger(__name__)

TOP = 16

# Most new tokens of an answer, by file; files that are not named get the last value.
MOST_NEW: Mapping[str, int] = {"wikisql_train": 64, "e2e_train": 80, "sgd_d2t": 64}
MOST_NEW_OTHER = 128

# Share of generated tokens by file: the kinds of prompts on which the demo is measured.
GENERATE_MIX: Mapping[str, float] = {
    "gsm8k_train": 0.46,
    "wikisql_train": 0.22,
    "e2e_train": 0.10,
    "sgd_d2t": 0.03,
    "mbpp_train": 0.03,
    "gpteacher_codegen": 0.06,
    "dolly_train": 0.06,
    "gpteacher_roleplay": 0.04,
}


@dataclass(frozen=True)
class Scored:
    """An example whose answer tokens have the target's best tokens (n, TOP) beside them."""

    example: Example
    top_ids: NDArray[np.uint16]
    top_logp: NDArray[np.float16]


@torch.inference_mode()
def generate_batch(
    model: Llama, prompts: NDArray[np.int32], most_new: int, temperature: float, seed: int
) -> list[Scored]:
    """Continue prompts (b, t) of one length to the end of the turn or `most_new` tokens.

    A temperature of 0 takes the most likely token; scores are of the unwarped distribution.
    """
    count, length = prompts.shape
    random = torch.Generator().manual_seed(seed)
    cache = KvCache(model.shape, count, length + most_new, torch.bfloat16)
    tokens = np.zeros((count, most_new), dtype=np.int32)
    top_ids = np.zeros((count, most_new, TOP), dtype=np.uint16)
    top_logp = np.zeros((count, most_new, TOP), dtype=np.float16)
    lengths = np.full(count, most_new)
    rows = np.arange(count)  # which prompt each row of the cache belongs to
    open_rows = np.ones(count, dtype=bool)
    ids = torch.from_numpy(prompts.astype(np.int64))
    for step in range(most_new):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = model.logits(model(ids, cache)[:, -1]).float()
        logp, best = scores.log_softmax(-1).topk(TOP)
        if temperature > 0.0:
            warped = (scores / temperature).softmax(-1)
            ids = torch.multinomial(warped, 1, generator=random)
        else:
            ids = best[:, :1]
        new = ids[:, 0].numpy()
        tokens[rows, step] = new
        top_ids[rows, step] = best.numpy()
        top_logp[rows, step] = logp.numpy()
        ended = open_rows & ((new == END_OF_TURN) | (new == END_OF_TEXT))
        lengths[rows[ended]] = step + 1
        open_rows &= ~ended
        if not open_rows.any():
            break
        if open_rows.mean() < 0.75:  # ended rows run on until dropping them pays for the copy
            stay = torch.from_numpy(np.flatnonzero(open_rows))
            cache.keep(stay)
            ids, rows, open_rows = ids[stay], rows[open_rows], open_rows[open_rows]
    return [
        Scored(
            Example(np.concatenate((prompts[i], tokens[i, :n])), length),
            top_ids[i, :n],
            top_logp[i, :n],
        )
        for i, n in enumerate(lengths)
    ]


def same_length_groups(
    examples: Sequence[Example], most: int, random: np.random.Generator
) -> Iterator[NDArray[np.int32]]:
    """Prompts (b, t) of one length each, at most `most` together, every prompt once."""
    by_length: dict[int, list[NDArray[np.int32]]] = {}
    seen: set[bytes] = set()
    for one in examples:
        prompt = one.ids[: one.start]
        if prompt.tobytes() not in seen:
            seen.add(prompt.tobytes())
            by_length.setdefault(one.start, []).append(prompt)
    groups = []
    for prompts in by_length.values():
        order = random.permutation(len(prompts))
        groups += [
            np.stack([prompts[i] for i in order[begin : begin + most]])
            for begin in range(0, len(prompts), most)
        ]
    for index in random.permutation(len(groups)):
        yield groups[index]


def save_shard(path: Path, answers: Sequence[Scored]) -> None:
    """Write answers to one `.npz` file."""
    part = path.with_name(path.stem + ".part.npz")
    np.savez(
        part,
        ids=np.concatenate([one.example.ids for one in answers]),
        sizes=np.array([len(one.example.ids) for one in answers]),
        starts=np.array([one.example.start for one in answers]),
        top_ids=np.concatenate([one.top_ids for one in answers]),
        top_logp=np.concatenate([one.top_logp for one in answers]),
    )
    part.replace(path)


def load_shard(path: Path) -> list[Scored]:
    """The answers of one shard."""
    answers = []
    with np.load(path) as shard:
        ids, top_ids, top_logp = shard["ids"], shard["top_ids"], shard["top_logp"]
        at, top_at = 0, 0
        for size, start in zip(shard["sizes"], shard["starts"], strict=True):
            fresh = int(size) - int(start)
            answers.append(
                Scored(
                    Example(ids[at : at + size], int(start)),
                    top_ids[top_at : top_at + fresh],
                    top_logp[top_at : top_at + fresh],
                )
            )
            at, top_at = at + int(size), top_at + fresh
    return answers


def shard_files(folder: Path) -> list[Path]:
    """The whole shards in `folder`, in order."""
    return [
        path for path in sorted(folder.glob("answers-*.npz")) if not path.stem.endswith(".part")
    ]


def load_shards(folder: Path) -> list[Scored]:
    """All answers of the whole shards in `folder`."""
    return [answer for path in shard_files(folder) for answer in load_shard(path)]


def generate_answers(
    model: Llama,
    text: Mapping[str, Sequence[Example]],
    folder: Path,
    minutes: float,
    seed: int,
) -> int:
    """Write answers in shards until `minutes` are used or prompts run out; returns new tokens.

    Of every file, each fourth batch is drawn at temperature 0.8 and the others are greedy: the
    greedy path is what is measured, the drawn ones keep the draft steady beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = len(shard_files(folder))
    model = model.to(torch.bfloat16)
    random = np.random.default_rng((seed, done))
    groups = {name: same_length_groups(text[name], 128, random) for name in GENERATE_MIX}
    made = dict.fromkeys(groups, 0)
    batches = dict.fromkeys(groups, 0)
    pending: list[Scored] = []
    start = time.monotonic()
    with tqdm(total=int(minutes * 60), unit="s") as bar:
        while groups and time.monotonic() - start < minutes * 60:
            name = min(groups, key=lambda one: made[one] / GENERATE_MIX[one])
            prompts = next(groups[name], None)
            if prompts is None:
                del groups[name]
                continue
            batches[name] += 1
            temperature = 0.8 if batches[name] % 4 == 0 else 0.0
            most_new = MOST_NEW.get(name, MOST_NEW_OTHER)
            answers = generate_batch(model, prompts, most_new, temperature, seed + batches[name])
            made[name] += sum(len(one.top_ids) for one in answers)
            pending += answers
            bar.n = int(time.monotonic() - start)
            bar.set_postfix_str(f"{sum(made.values()) / 1e6:.2f}M tokens")
            if len(pending) > 1000:
                save_shard(folder / f"answers-{done:04d}.npz", pending)
                done, pending = done + 1, []
    if pending:
        save_shard(folder / f"answers-{done:04d}.npz", pending)
    log.info("generated tokens by file: %s", made)
    return sum(made.values())

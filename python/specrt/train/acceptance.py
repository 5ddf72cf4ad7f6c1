"""How often a draft agrees with its target: greedy, on the target's own path.

A greedy draft chain is accepted up to its first token that differs from the target's, and up to
there both have the same context. One forward of the draft over the target's path therefore gives
the acceptance of every round exactly; no decoding loop is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from specrt.train.data import END_OF_TEXT, END_OF_TURN
from specrt.train.llama import KvCache, Llama


@dataclass(frozen=True)
class Acceptance:
    """Sums over the prompts of one task."""

    prompts: int
    tokens: int
    agreed: int
    rounds: int
    ended: int
    looping: int

    @property
    def agreement(self) -> float:
        """Share of the target's tokens that are also the draft's most likely token."""
        return self.agreed / self.tokens

    @property
    def mean_length(self) -> float:
        """Tokens committed per target step, the target's own token included."""
        return self.tokens / self.rounds


def pool(parts: Sequence[Acceptance]) -> Acceptance:
    """Sums of several tasks."""
    return Acceptance(
        sum(one.prompts for one in parts),
        sum(one.tokens for one in parts),
        sum(one.agreed for one in parts),
        sum(one.rounds for one in parts),
        sum(one.ended for one in parts),
        sum(one.looping for one in parts),
    )


@torch.inference_mode()
def greedy_answer(model: Llama, prompt: NDArray[np.int32], most_new: int) -> list[int]:
    """Greedy answer of a float32 model, its end token included."""
    cache = KvCache(model.shape, 1, len(prompt) + most_new, torch.float32)
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    answer: list[int] = []
    while len(answer) < most_new:
        ids = model.logits(model(ids, cache)[:, -1]).argmax(-1, keepdim=True)
        answer.append(int(ids))
        if answer[-1] in (END_OF_TURN, END_OF_TEXT):
            break
    return answer


@torch.inference_mode()
def agreements(draft: Llama, prompt: NDArray[np.int32], answer: Sequence[int]) -> list[bool]:
    """Say for each token of the answer whether it is the draft's most likely token there."""
    path = torch.tensor(prompt.tolist() + list(answer))
    hidden = draft(path[None, :-1])[0, len(prompt) - 1 :]
    agreed: list[bool] = (draft.logits(hidden).argmax(-1) == path[len(prompt) :]).tolist()
    return agreed


def count_rounds(agreed: Sequence[bool], drafts: int) -> int:
    """Target steps that draft-then-verify needs with `drafts` drafted tokens a round."""
    at, rounds = 0, 0
    while at < len(agreed):
        accepted = 0
        while accepted < drafts and at + accepted < len(agreed) and agreed[at + accepted]:
            accepted += 1
        at, rounds = at + accepted + 1, rounds + 1
    return rounds


def is_looping(answer: Sequence[int]) -> bool:
    """Say whether some run of eight tokens occurs three times or more."""
    seen: dict[tuple[int, ...], int] = {}
    for begin in range(len(answer) - 7):
        run = tuple(answer[begin : begin + 8])
        seen[run] = seen.get(run, 0) + 1
    return max(seen.values(), default=0) >= 3


def measure_acceptance(
    draft: Llama,
    prompts: Sequence[NDArray[np.int32]],
    answers: Sequence[Sequence[int]],
    drafts: int,
) -> Acceptance:
    """Acceptance of `drafts` greedy drafted tokens a round on the target's greedy answers.

    The first token of an answer comes from the prompt's own step and is not counted.
    """
    total = Acceptance(0, 0, 0, 0, 0, 0)
    for prompt, answer in zip(prompts, answers, strict=True):
        agreed = agreements(draft, prompt, answer)[1:]
        one = Acceptance(
            prompts=1,
            tokens=len(agreed),
            agreed=sum(agreed),
            rounds=count_rounds(agreed, drafts),
            ended=int(answer[-1] in (END_OF_TURN, END_OF_TEXT)),
            looping=int(is_looping(answer)),
        )
        total = pool((total, one))
    return total

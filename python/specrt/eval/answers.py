"""The answers of a benchmark run in Spec-Bench's form, which its own scripts read.

Xia et al. 2024 (2401.07851), Spec-Bench: one object for every question, `speed.py` divides
`new_tokens` by `wall_time` and averages `accept_lengths`, `equal.py` compares `turns`.
"""

import time
import uuid
from collections.abc import Iterator
from typing import Any

from specrt.eval.bench import MethodRun
from specrt.eval.sample import Answers


def answer_rows(method: MethodRun, model: str) -> Iterator[dict[str, Any]]:
    """One object for every prompt, one choice in it for every repeat.

    A question without an id has its place in the run. `model_id` is the model and the method.
    """
    for place, sample in enumerate(method.samples):
        yield {
            "question_id": place if sample.prompt.id == "" else sample.prompt.id,
            "category": sample.prompt.category,
            "answer_id": uuid.uuid4().hex,
            "model_id": f"{model}-{method.method}",
            "choices": [_choice(i, answers) for i, answers in enumerate(sample.repeats)],
            "tstamp": time.time(),
        }


def _choice(index: int, answers: Answers) -> dict[str, Any]:
    """Lists hold one value a turn, seconds for times; accepted lengths are those of all rounds.

    The prompt's step is in the time and its token in `new_tokens`, but it is no decoding step.
    """
    rounds = [answer.metrics.rounds for answer in answers]
    return {
        "index": index,
        "turns": [answer.text for answer in answers],
        "decoding_steps": [len(each) for each in rounds],
        "new_tokens": [len(answer.token_ids) for answer in answers],
        "wall_time": [answer.metrics.total_ms / 1000.0 for answer in answers],
        "accept_lengths": [r.committed for each in rounds for r in each],
    }

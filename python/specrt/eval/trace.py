"""Every decoding round of a benchmark run, as JSON objects."""

from collections.abc import Iterator
from typing import Any

from specrt.eval.bench import BenchRun
from specrt.outputs import RequestOutput


def trace_rows(run: BenchRun) -> Iterator[dict[str, Any]]:
    """One object for every round of every repeat, by method, prompt, repeat and turn.

    `prompt` is the place of the prompt's row in its file; all counts begin at 0. `position` is how
    many tokens were committed before the round, the prompt included. The prompt's own step, which
    commits the first token, is no round. `ms` is `Round.ms`.
    """
    for method in run.methods:
        for sample in method.samples:
            prompt = sample.prompt
            head = {
                "prompt_file": prompt.file,
                "category": prompt.category,
                "prompt": prompt.index,
                "id": prompt.id,
                "method": method.method,
            }
            for repeat, answers in enumerate(sample.repeats):
                for turn, answer in enumerate(answers):
                    place = {**head, "repeat": repeat, "turn": turn}
                    yield from ({**place, **row} for row in _rounds(answer))


def _rounds(answer: RequestOutput) -> Iterator[dict[str, Any]]:
    position = answer.metrics.prompt_tokens + 1
    for number, each in enumerate(answer.metrics.rounds):
        row = {"round": number, "position": position, **each._asdict()}
        yield {**row, "ms": round(each.ms, 4)}
        position += each.committed

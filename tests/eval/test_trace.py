"""Rounds of a benchmark run, one object each."""

import dataclasses

from bench_samples import BASELINE, DRAFTED, run
from specrt.eval.trace import trace_rows


def test_every_round_is_written() -> None:
    rows = list(trace_rows(run(BASELINE, DRAFTED)))
    assert len(rows) == 8 + 32 + 3 + 8
    assert rows[40:43] == [
        {
            **{"prompt_file": "f", "category": "c", "prompt": 0, "id": "", "repeat": 0, "turn": 0},
            **{"method": "speculative", "round": number, "position": position, "drafted": drafted},
            **{"accepted": accepted, "committed": committed, "ms": ms},
        }
        for number, position, drafted, accepted, committed, ms in [
            (0, 11, 3, 3, 4, 3.0),
            (1, 15, 3, 1, 2, 3.0),
            (2, 17, 2, 1, 2, 2.0),
        ]
    ]
    assert rows[43]["prompt_file"] == "g" and rows[43]["position"] == 11


def test_repeats_and_turns() -> None:
    one = DRAFTED.samples[0]
    two_turns = (*one.answers, *one.answers)
    sample = dataclasses.replace(one, repeats=(two_turns, two_turns))
    rows = list(trace_rows(run(dataclasses.replace(DRAFTED, samples=(sample,)))))
    assert [(row["repeat"], row["turn"], row["round"]) for row in rows] == [
        (repeat, turn, number) for repeat in range(2) for turn in range(2) for number in range(3)
    ]

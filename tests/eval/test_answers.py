"""Spec-Bench's answer files, read back by the formulas of its speed.py and equal.py."""

import dataclasses
import json
from typing import Any

import pytest
from bench_samples import BASELINE, DRAFTED, LOOP, VARIED
from specrt.eval.answers import answer_rows
from specrt.eval.bench import MethodRun
from specrt.eval.prompts import Prompt

KEYS = {"question_id", "category", "answer_id", "model_id", "choices", "tstamp"}


def lines(method: MethodRun) -> list[str]:
    return [json.dumps(row) for row in answer_rows(method, "m")]


def speeds(answers: list[str]) -> list[float]:
    """speed.py of a method: its own count of tokens, the first choice only."""
    choices = [json.loads(line)["choices"][0] for line in answers]
    return [sum(c["new_tokens"]) / sum(c["wall_time"]) for c in choices]


def baseline_speeds(answers: list[str]) -> list[float]:
    """speed.py of the baseline: tokens of the text, here words, less one for the BOS."""
    choices = [json.loads(line)["choices"][0] for line in answers]
    return [
        sum(len(["<s>", *turn.split()]) - 1 for turn in c["turns"]) / sum(c["wall_time"])
        for c in choices
    ]


def mean(values: list[Any]) -> float:
    return sum(values) / len(values)


def accepted(answers: list[str]) -> list[int]:
    return [n for line in answers for n in json.loads(line)["choices"][0]["accept_lengths"]]


def test_speed_py_reads_the_numbers_of_the_run() -> None:
    base, ours = lines(BASELINE), lines(DRAFTED)
    # tokens / seconds, of the prompt too: 9 in 9 ms and 33 in 36 ms; 9 in 9 ms and 33 in 9 ms.
    assert mean(speeds(base)) == pytest.approx((1000 + 33 / 0.036) / 2)
    assert mean(baseline_speeds(base)) == pytest.approx(mean(speeds(base)))
    assert mean(speeds(ours)) == pytest.approx((1000 + 33 / 0.009) / 2)
    assert mean(accepted(base)) == 1.0
    assert mean(accepted(ours)) == pytest.approx(40 / 11)


def test_equal_py_sees_the_same_texts() -> None:
    def texts(method: MethodRun) -> list[list[str]]:
        return [json.loads(line)["choices"][0]["turns"] for line in lines(method)]

    assert texts(BASELINE) == texts(DRAFTED)
    assert texts(DRAFTED) == [[" ".join(map(str, VARIED))], [" ".join(map(str, LOOP))]]


def test_turns_and_repeats() -> None:
    first, second = (sample.answers[0] for sample in DRAFTED.samples)
    prompt = Prompt("a", 81, "writing", follow_ups=("b",))
    sample = dataclasses.replace(
        DRAFTED.samples[0], prompt=prompt, repeats=((first, second), (first, second))
    )
    [row] = map(json.loads, lines(dataclasses.replace(DRAFTED, samples=(sample,))))
    assert set(row) == KEYS
    assert (row["question_id"], row["category"]) == (81, "writing")
    assert row["model_id"] == "m-speculative"
    assert [choice.pop("index") for choice in row["choices"]] == [0, 1]
    assert row["choices"][0] == row["choices"][1]
    assert row["choices"][0] == {
        "turns": [first.text, second.text],
        "decoding_steps": [3, 8],
        "new_tokens": [9, 33],
        "wall_time": pytest.approx([0.009, 0.009]),
        "accept_lengths": [4, 2, 2, *[4] * 8],
    }


def test_questions_without_an_id_have_their_place() -> None:
    assert [json.loads(line)["question_id"] for line in lines(DRAFTED)] == [0, 1]

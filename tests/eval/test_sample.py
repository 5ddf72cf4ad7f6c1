"""Conversations: what each turn is fed."""

from pathlib import Path

import pytest
from specrt import LLM, SamplingParams
from specrt.eval.prompts import Prompt
from specrt.eval.sample import Sample, converse

PARAMS = SamplingParams(temperature=0, max_tokens=8)


@pytest.fixture(scope="module")
def llm(demo_bundle: Path) -> LLM:
    return LLM(demo_bundle, method="speculative", threads=2)


def test_answers_go_into_the_next_prompt(llm: LLM) -> None:
    first, second, third = converse(
        llm, Prompt("Hi.", follow_ups=("Why?", "How?")), PARAMS, raw=False
    )
    asked = "<|user|>\nHi.<|end|>\n<|assistant|>\n"
    assert first.prompt_token_ids == llm.tokenizer.encode(asked)
    asked += f"{first.text}<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\n"
    assert second.prompt_token_ids == llm.tokenizer.encode(asked)
    asked += f"{second.text}<|end|>\n<|user|>\nHow?<|end|>\n<|assistant|>\n"
    assert third.prompt_token_ids == llm.tokenizer.encode(asked)
    assert len(third.token_ids) > 0


@pytest.mark.parametrize(("follow_up", "raw"), [("Why?", True), ("Why? " * 3000, False)])
def test_turns_that_cannot_be_run_are_counted(llm: LLM, follow_up: str, raw: bool) -> None:
    prompt = Prompt("Hi.", follow_ups=(follow_up, "How?"))
    answers = converse(llm, prompt, PARAMS, raw=raw)
    assert len(answers) == 1
    assert Sample(prompt, (answers,), 0.0).skipped_turns == 2

"""Times of a completion as the host measures them."""

import time
from pathlib import Path

import pytest
from specrt import LLM, SamplingParams

PARAMS = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PAUSE = 0.01


@pytest.fixture(scope="module", params=["autoregressive", "speculative"])
def llm(request: pytest.FixtureRequest, demo_bundle: Path) -> LLM:
    return LLM(demo_bundle, method=request.param, threads=2)


def test_rounds_are_timed_from_verdict_to_verdict(llm: LLM) -> None:
    """The caller's own clock brackets them, however slow the machine is."""
    seen: list[float] = []

    def on_progress(token_ids: list[int], text: bytes) -> bool:
        seen.append(time.monotonic())
        time.sleep(PAUSE)
        return True

    called = time.monotonic()
    prompt = llm.tokenizer.encode("Once upon a time")
    metrics = llm.core.generate(prompt, PARAMS.to_core(), on_progress).metrics
    seconds = [each.seconds for each in metrics.rounds]
    assert len(seen) == 1 + len(seconds) > 3
    # Every verdict is read before its call and after the pause in the call before.
    assert min(seconds) >= PAUSE
    read = metrics.time_to_first_token + sum(seconds)
    assert sum(seconds) >= seen[-2] - seen[0] + PAUSE
    assert read <= seen[-1] - called
    assert metrics.total_time >= read + PAUSE


def test_milliseconds_add_up(llm: LLM) -> None:
    [output] = llm.generate("Once upon a time", PARAMS)
    metrics = output.metrics
    decoding_ms = sum(each.ms for each in metrics.rounds)
    assert 0 < decoding_ms <= metrics.total_ms - metrics.ttft_ms

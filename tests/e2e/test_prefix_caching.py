"""What a prompt shares with the text before it is not fed again, and nothing else changes."""

from pathlib import Path

import pytest
from backends import by_backend
from specrt import LLM, RequestOutput, SamplingParams
from specrt._core import EngineRole

METHODS = ("autoregressive", "speculative", "ngram", "ngram+speculative", "pearl")


def params_of(seed: int, tokens: int = 24) -> SamplingParams:
    return SamplingParams(temperature=0.9, max_tokens=tokens, seed=seed, logprobs=3)


def load(bundle: Path, method: str, **options: bool) -> LLM:
    tokens = None if method == "autoregressive" else 4
    return LLM(bundle, method, num_speculative_tokens=tokens, threads=2, **options)


def fresh(bundle: Path, prompt: list[int], params: SamplingParams) -> RequestOutput:
    return load(bundle, "autoregressive").generate(prompt, params)[0]


@pytest.mark.parametrize("method", METHODS)
def test_every_turn_of_a_conversation_equals_a_fresh_prefill_bit_for_bit(
    method: str, demo_bundle: Path, prompts: list[dict[str, str]]
) -> None:
    llm = load(demo_bundle, method)
    text: list[int] = []
    for turn, row in enumerate(prompts[by_backend(cpu=slice(3, 120, 13), cuda=slice(2))]):
        fed = len(text) - 1
        text += llm.tokenizer.encode(row["prompt"])[:150]
        [out] = llm.generate([text], params_of(turn))
        wanted = fresh(demo_bundle, text, params_of(turn))
        assert out.token_ids == wanted.token_ids
        assert out.logprobs == wanted.logprobs  # as floats: no bit differs
        assert out.metrics.cached_tokens == max(0, fed)
        text += out.token_ids


@pytest.mark.parametrize("method", METHODS)
def test_what_a_stop_cut_off_is_no_part_of_the_next_prompt(method: str, demo_bundle: Path) -> None:
    llm = load(demo_bundle, method)
    prompt = llm.tokenizer.encode("one two three four five six one two three four five six one")
    [whole] = llm.generate([prompt], params_of(5, tokens=30))
    middle = llm.tokenizer.decode(whole.token_ids[10:13])
    stopped = SamplingParams(temperature=0.9, max_tokens=30, seed=5, stop=[middle])
    [cut] = llm.generate([prompt], stopped)
    assert cut.finish_reason == "stop"
    following = prompt + cut.token_ids + [41, 42, 43]
    [out] = llm.generate([following], params_of(6))
    wanted = fresh(demo_bundle, following, params_of(6))
    assert (out.token_ids, out.logprobs) == (wanted.token_ids, wanted.logprobs)
    assert len(prompt) <= out.metrics.cached_tokens < len(following)


def test_the_same_prompt_again_feeds_one_token(demo_bundle: Path) -> None:
    llm = load(demo_bundle, "speculative")
    prompt = list(range(100, 400))
    [first] = llm.generate([prompt], params_of(1))
    [again] = llm.generate([prompt], params_of(1))
    assert first.metrics.cached_tokens == 0
    assert again.metrics.cached_tokens == len(prompt) - 1
    assert (first.token_ids, first.logprobs) == (again.token_ids, again.logprobs)


def test_another_use_of_the_caches_between_requests(demo_bundle: Path) -> None:
    """Timing steps and scoring tokens write into the same caches."""
    llm = load(demo_bundle, "speculative")
    prompt = list(range(100, 200))
    [first] = llm.generate([prompt], params_of(1))
    for role in (EngineRole.target, EngineRole.drafter):
        for disturb in (
            lambda role=role: llm.core.time_steps(role, 8, 30, 1),
            lambda role=role: llm.core.logits(role, prompt[::-1]),
        ):
            disturb()
            [out] = llm.generate([prompt], params_of(1))
            assert out.metrics.cached_tokens == 0
            assert (out.token_ids, out.logprobs) == (first.token_ids, first.logprobs)


def test_a_cancelled_prompt_leaves_nothing_to_reuse(demo_bundle: Path) -> None:
    llm = load(demo_bundle, "speculative")
    prompt = [100 + i % 700 for i in range(by_backend(cpu=1500, cuda=600))]
    completion = llm.core.generate(prompt, params_of(1).to_core(), lambda *_: False)
    assert not completion.token_ids
    [out] = llm.generate([prompt], params_of(1))
    assert out.metrics.cached_tokens == 0
    assert out.token_ids == fresh(demo_bundle, prompt, params_of(1)).token_ids


def test_it_can_be_switched_off(demo_bundle: Path) -> None:
    llm = load(demo_bundle, "speculative", enable_prefix_caching=False)
    for _ in range(2):
        [out] = llm.generate([list(range(100, 200))], params_of(1))
        assert out.metrics.cached_tokens == 0

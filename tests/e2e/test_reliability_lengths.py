"""Lengths at the edges of the context: every method ends where autoregressive decoding ends."""

from pathlib import Path

import pytest
from backends import by_backend
from specrt import LLM, SamplingParams
from specrt.methods import METHODS, STREAMING, drafter_of

CONTEXT, DRAFT_CONTEXT = 64, 48
# Around a step of the prompt, the end of the draft model's context, and that of the target's.
LENGTHS = by_backend(cpu=(1, 2, 30, 45, 46, 47, 48, 49, 60, 61, 62, 63), cuda=(38, 47, 63))
LONGEST = 2**31 - 1  # of max_tokens


@pytest.fixture(scope="module")
def plain(tiny_bundle: Path) -> LLM:
    return LLM(tiny_bundle, method="autoregressive", threads=1)


# Those with a draft model or none; the others have tests of their own.
DRAFTING = [
    name
    for name in METHODS
    if name not in ("autoregressive", STREAMING) and drafter_of(name) in (None, "draft")
]


@pytest.fixture(scope="module", params=DRAFTING)
def llm(request: pytest.FixtureRequest, tiny_bundle: Path) -> LLM:
    return LLM(tiny_bundle, method=request.param, num_speculative_tokens=5, threads=1)


def prompt_of(length: int) -> list[int]:
    """Tokens that repeat, so that a lookup finds something."""
    return [100 + i % 7 for i in range(length)]


@pytest.mark.parametrize("max_tokens", [CONTEXT, 1000, LONGEST])
@pytest.mark.parametrize("length", LENGTHS)
def test_max_tokens_beyond_the_context_fill_it(
    length: int, max_tokens: int, llm: LLM, plain: LLM
) -> None:
    params = SamplingParams(temperature=0.9, max_tokens=max_tokens, ignore_eos=True, seed=length)
    [out] = llm.generate([prompt_of(length)], params)
    assert len(out.token_ids) == CONTEXT - length
    assert out.finish_reason == "length"
    assert out.token_ids == plain.generate([prompt_of(length)], params)[0].token_ids


@pytest.mark.parametrize("length", LENGTHS)
def test_the_context_is_filled_exactly(length: int, llm: LLM, plain: LLM) -> None:
    for missing in by_backend(cpu=(0, 1, 2, 5, 6), cuda=(0, 5)):
        wanted = CONTEXT - length - missing
        if wanted < 1:
            continue
        params = SamplingParams(temperature=0, max_tokens=wanted, ignore_eos=True)
        [out] = llm.generate([prompt_of(length)], params)
        assert (len(out.token_ids), out.finish_reason) == (wanted, "length")
        assert out.token_ids == plain.generate([prompt_of(length)], params)[0].token_ids


def test_streams_end_there_too(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=LONGEST, ignore_eos=True)
    for length in (1, 47, 62, 63):
        chunks = list(llm.stream(prompt_of(length), params))
        assert sum(len(chunk.token_ids) for chunk in chunks) == CONTEXT - length
        assert chunks[-1].finish_reason == "length"


def test_a_prompt_that_leaves_no_room_is_refused(llm: LLM) -> None:
    for length in (CONTEXT, CONTEXT + 1, 10 * CONTEXT):
        with pytest.raises(ValueError, match="leaves room for 63"):
            llm.generate([prompt_of(length)])
    assert len(llm.generate([prompt_of(CONTEXT - 1)])[0].token_ids) == 1


@pytest.mark.parametrize("draft_tokens", [1, 63])
def test_drafts_longer_than_the_room(draft_tokens: int, tiny_bundle: Path, plain: LLM) -> None:
    for method in ("speculative", "ngram", "ngram+speculative"):
        llm = LLM(tiny_bundle, method=method, num_speculative_tokens=draft_tokens, threads=1)
        for length in LENGTHS[by_backend(cpu=0, cuda=-2) :]:
            params = SamplingParams(temperature=0, max_tokens=LONGEST, ignore_eos=True)
            expected = plain.generate([prompt_of(length)], params)[0].token_ids
            assert llm.generate([prompt_of(length)], params)[0].token_ids == expected

"""Logit bias, penalties and log-probabilities, against NumPy and between the methods."""

from pathlib import Path

import numpy as np
import pytest
from backends import by_backend
from reference.pick import pick
from reference.warp import Sampling, log_softmax
from specrt import LLM, SamplingParams, _core

TOKENS = by_backend(cpu=40, cuda=20)
PROMPT = "Repeat after me: one two one two one"
OPTIONS: dict[str, dict[str, object]] = {
    "bias": {"logit_bias": {100: 4.0, 265: -100.0, 300: 2.5}},
    "repetition": {"repetition_penalty": 1.3},
    "less than one": {"repetition_penalty": 0.9},
    "frequency": {"frequency_penalty": 0.7},
    "presence": {"presence_penalty": 1.5},
    "negative": {"frequency_penalty": -0.2, "presence_penalty": -0.5},
    "all": {
        "logit_bias": {500: 1.0},
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.4,
        "min_tokens": 12,
    },
}


@pytest.fixture(scope="module")
def plain(demo_bundle: Path) -> LLM:
    return LLM(demo_bundle, method="autoregressive", threads=2)


@pytest.fixture(scope="module")
def fast(demo_bundle: Path) -> LLM:
    return LLM(demo_bundle, method="speculative", num_speculative_tokens=5, threads=2)


def adjusted(logits: np.ndarray, params: SamplingParams, prompt: list[int], out: list[int]):
    """Bias, then penalties, as vLLM defines them, in float64."""
    row = logits.astype(np.float64)
    for token, bias in params.logit_bias.items():
        row[token] += bias
    if len(out) < params.min_tokens:
        row[[0, 3]] = -np.inf  # the demo model's end-of-sequence tokens
    seen = np.unique([*prompt, *out])
    scale = params.repetition_penalty
    row[seen] = np.where(row[seen] > 0, row[seen] / scale, row[seen] * scale)
    counts = np.bincount(out, minlength=len(row)) if out else np.zeros(len(row))
    row -= params.frequency_penalty * counts
    row -= params.presence_penalty * (counts > 0)
    return row


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_tokens_follow_the_definition(name: str, temperature: float, plain: LLM) -> None:
    params = SamplingParams(temperature=temperature, max_tokens=30, seed=4, **OPTIONS[name])  # type: ignore[arg-type]
    [out] = plain.generate(PROMPT, params)
    prompt = out.prompt_token_ids
    logits = plain.core.logits(_core.EngineRole.target, [*prompt, *out.token_ids])
    agree = 0
    for i, token in enumerate(out.token_ids):
        row = adjusted(logits[len(prompt) + i - 1], params, prompt, out.token_ids[:i])
        agree += pick(row, len(prompt) + i, 4, Sampling(temperature)) == token
    assert agree >= len(out.token_ids) - 1  # one near tie of float32 may fall the other way


@pytest.mark.parametrize("name", OPTIONS)
def test_methods_agree(name: str, plain: LLM, fast: LLM, prompts: list[dict[str, str]]) -> None:
    changed = False
    for number, row in enumerate(prompts[:: by_backend(cpu=25, cuda=4)]):
        for temperature in (0.0, 1.0):
            base = SamplingParams(temperature=temperature, max_tokens=TOKENS, seed=number)
            params = SamplingParams(
                temperature=temperature,
                max_tokens=TOKENS,
                seed=number,
                **OPTIONS[name],  # type: ignore[arg-type]
            )
            [expected] = plain.generate(row["prompt"], params)
            [actual] = fast.generate(row["prompt"], params)
            assert actual.token_ids == expected.token_ids
            changed |= plain.generate(row["prompt"], base)[0].token_ids != expected.token_ids
    assert changed


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_those_of_the_model(temperature: float, plain: LLM, fast: LLM) -> None:
    params = SamplingParams(
        temperature=temperature, max_tokens=40, seed=1, logprobs=5, top_k=20, presence_penalty=1.0
    )
    [out] = fast.generate(PROMPT, params)
    assert out.logprobs is not None
    assert out.logprobs == plain.generate(PROMPT, params)[0].logprobs
    assert len(out.logprobs) == len(out.token_ids)
    prompt = out.prompt_token_ids
    logits = plain.core.logits(_core.EngineRole.target, [*prompt, *out.token_ids])
    for i, row in enumerate(out.logprobs):
        expected = log_softmax(logits[len(prompt) + i - 1])
        assert next(iter(row)) == out.token_ids[i]
        likeliest = np.argsort(-expected, kind="stable")[:5]
        assert set(row) == {out.token_ids[i], *likeliest.tolist()}
        assert all(abs(value - expected[token]) < 1e-4 for token, value in row.items())


def test_logprobs_end_with_the_tokens(fast: LLM) -> None:
    [free] = fast.generate(PROMPT, SamplingParams(temperature=0, max_tokens=40, ignore_eos=True))
    stop = free.token_ids[17]
    params = SamplingParams(
        temperature=0, max_tokens=40, ignore_eos=True, stop_token_ids=[stop], logprobs=0
    )
    [out] = fast.generate(PROMPT, params)
    assert out.logprobs is not None
    assert [len(row) for row in out.logprobs] == [1] * len(out.token_ids)
    [none] = fast.generate(PROMPT, SamplingParams(max_tokens=3))
    assert none.logprobs is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("repetition_penalty", 0),
        ("frequency_penalty", 2.1),
        ("presence_penalty", float("nan")),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {5: float("inf")}),
        ("logprobs", 21),
        ("logprobs", -1),
    ],
)
def test_bad_values_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        SamplingParams(**{field: value})  # type: ignore[arg-type]


def test_a_biased_token_must_exist(plain: LLM) -> None:
    vocab = plain.core.vocab
    with pytest.raises(ValueError, match=f"token {vocab} is outside of the vocabulary"):
        plain.generate(PROMPT, SamplingParams(logit_bias={vocab: 1.0}))

"""Sampled tokens follow the model's distribution, with and without a drafter."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from backends import by_backend
from bundles import bundle_of, tiny_model
from reference.pick import pick
from reference.tiny_llama import write_tiny_llama
from reference.warp import Sampling, warp
from specrt import LLM, SamplingParams, _core
from specrt.methods import RULES

TARGET = _core.EngineRole.target
PROMPT = [100, 120, 7, 50]
SAMPLES = by_backend(cpu=4000, cuda=400)
# 99.99 % point of chi-square with n degrees of freedom, Wilson and Hilferty's approximation.
Z_9999 = 3.719


def chi_square_limit(freedom: int) -> float:
    share = 2 / (9 * freedom)
    return float(freedom * (1 - share + Z_9999 * share**0.5) ** 3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    target = write_tiny_llama(folder / "target", tiny_model(layers=1))
    draft = write_tiny_llama(folder / "draft", tiny_model(layers=1, hidden=32, seed=1))
    return bundle_of(target, folder / "bundle", draft=draft, dtype="f32")


def probabilities(llm: LLM, tokens: list[int], sampling: Sampling) -> np.ndarray:
    """Distribution of the token after `tokens`, by the reference's warping."""
    logits = llm.core.logits(TARGET, tokens)[-1]
    return np.exp(warp(logits, sampling))


METHODS = ("autoregressive", "speculative", "pearl")
JUDGED = by_backend(
    cpu=[(method, rule) for method in METHODS for rule in RULES],
    cuda=[
        *((method, "exact") for method in METHODS),
        ("speculative", "rejection"),
        ("pearl", "block"),
    ],
)


@pytest.mark.parametrize(("method", "rule"), JUDGED)
def test_triples_of_tokens_follow_the_model(method: str, rule: str, bundle: Path) -> None:
    """Chi-square of the first three tokens, of which the second and third may be drafted."""
    sampling = Sampling(temperature=0.8, top_k=5, top_p=0.97, min_p=0.01)
    drafted = None if method == "autoregressive" else 3
    llm = LLM(bundle, method, drafted, rule=rule, threads=1)
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(SAMPLES):
        params = SamplingParams(
            temperature=0.8,
            top_k=5,
            top_p=0.97,
            min_p=0.01,
            max_tokens=5,
            ignore_eos=True,
            seed=seed,
        )
        [out] = llm.generate([PROMPT], params)
        counts[tuple(out.token_ids[:3])] += 1
    expected: dict[tuple[int, ...], float] = {(): SAMPLES}
    for _ in range(3):
        expected = {
            (*tokens, int(token)): mean * row[token]
            for tokens, mean in expected.items()
            for row in [probabilities(llm, [*PROMPT, *tokens], sampling)]
            for token in np.flatnonzero(row)
        }
    assert set(counts) <= set(expected)
    # Rare triples are pooled, so that every cell expects at least five.
    rare = [triple for triple, mean in expected.items() if mean < 5]
    cells = [(counts[t], mean) for t, mean in expected.items() if mean >= 5]
    if rare:
        cells.append((sum(counts[t] for t in rare), sum(expected[t] for t in rare)))
    statistic = sum((seen - mean) ** 2 / mean for seen, mean in cells)
    assert len(cells) > by_backend(cpu=20, cuda=5)
    assert statistic < chi_square_limit(len(cells) - 1)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_every_token_is_the_reference_pick(temperature: float, bundle: Path) -> None:
    """y = argmax(log p / T + Gumbel(seed, position)), near ties of float32 aside."""
    sampling = Sampling(temperature=temperature, top_k=40, top_p=0.95)
    llm = LLM(bundle, method="speculative", num_speculative_tokens=3, threads=1)
    agree = total = 0
    for seed in range(by_backend(cpu=8, cuda=4)):
        params = SamplingParams(
            temperature=temperature, top_k=40, top_p=0.95, max_tokens=40, ignore_eos=True, seed=seed
        )
        [out] = llm.generate([PROMPT], params)
        tokens = [*PROMPT, *out.token_ids]
        logits = llm.core.logits(TARGET, tokens)
        for position in range(len(PROMPT), len(tokens)):
            expected = pick(logits[position - 1], position, seed, sampling)
            agree += expected == tokens[position]
            total += 1
    assert agree >= 0.995 * total

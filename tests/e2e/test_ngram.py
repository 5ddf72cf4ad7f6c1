"""N-gram drafting on the demo models: the same output, and tokens drafted where text repeats."""

from pathlib import Path

import pytest
from backends import by_backend
from specrt import LLM, SamplingParams

REPEATING = "one two three four five six one two three four five six one two three"


@pytest.fixture(scope="module")
def plain(demo_bundle: Path) -> LLM:
    return LLM(demo_bundle, method="autoregressive", threads=2)


@pytest.mark.parametrize("method", ["ngram", "ngram+speculative"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_output_is_that_of_autoregressive(
    method: str, temperature: float, demo_bundle: Path, plain: LLM, prompts: list[dict[str, str]]
) -> None:
    llm = LLM(demo_bundle, method=method, num_speculative_tokens=5, threads=2)
    drafted = 0
    tokens = by_backend(cpu=48, cuda=24)
    for number, row in enumerate(prompts[:: by_backend(cpu=8, cuda=2)]):
        params = SamplingParams(temperature=temperature, max_tokens=tokens, seed=number)
        [expected] = plain.generate(row["prompt"], params)
        [actual] = llm.generate(row["prompt"], params)
        assert actual.token_ids == expected.token_ids, row["id"]
        assert actual.method == method
        speculation = actual.metrics.speculative_decoding
        drafted += speculation.num_draft_tokens if speculation else 0
    assert drafted > 0


def test_a_loop_is_drafted_as_a_loop(demo_bundle: Path) -> None:
    """Greedy output that repeats one token, as a large bias makes it, is accepted whole."""
    params = SamplingParams(temperature=0, max_tokens=91, logit_bias={100: 1000.0})
    llm = LLM(demo_bundle, method="ngram", num_speculative_tokens=8, threads=2)
    [out] = llm.generate(REPEATING, params)
    assert out.token_ids == [100] * 91
    # The lookup needs two tokens to match and one before them; from then on nine a round.
    assert [r.committed for r in out.metrics.rounds][-9:-1] == [9] * 8
    assert all(r.accepted == r.drafted for r in out.metrics.rounds[-9:])


def test_lookup_lengths(demo_bundle: Path) -> None:
    config = {"method": "ngram", "prompt_lookup_max": 3, "num_speculative_tokens": 2}
    llm = LLM(demo_bundle, speculative_config=config, threads=1)
    assert (llm.method, llm.num_speculative_tokens) == ("ngram", 2)
    [out] = llm.generate(REPEATING, SamplingParams(temperature=0, max_tokens=20))
    assert all(r.drafted in (0, 1, 2) for r in out.metrics.rounds)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"method": "ngram", "prompt_lookup_max": 17}, r"prompt_lookup_max must be in \[1, 16\]"),
        (
            {"method": "ngram", "prompt_lookup_max": 2, "prompt_lookup_min": 3},
            r"prompt_lookup_min must be in \[1, 2\]",
        ),
        ({"method": "speculative", "prompt_lookup_max": 3}, "belong to n-gram methods"),
    ],
)
def test_bad_lookups_are_refused(
    config: dict[str, object], message: str, demo_bundle: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        LLM(demo_bundle, speculative_config=config)

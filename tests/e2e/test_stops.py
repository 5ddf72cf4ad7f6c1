"""Stop strings, stop sequences and min_tokens end a completion exactly, whatever the method."""

from pathlib import Path

import pytest
from backends import by_backend
from specrt import LLM, RequestOutput, SamplingParams

PROMPT = "Once upon a time"
TOKENS = by_backend(cpu=60, cuda=26)


@pytest.fixture(scope="module", params=["autoregressive", "speculative"])
def llm(request: pytest.FixtureRequest, demo_bundle: Path) -> LLM:
    return LLM(demo_bundle, method=request.param, threads=2)


def run(llm: LLM, **options: object) -> RequestOutput:
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, **options)  # type: ignore[arg-type]
    [out] = llm.generate(PROMPT, params)
    chunks = list(llm.stream(PROMPT, params))
    assert "".join(chunk.text for chunk in chunks) == out.text
    assert [token for chunk in chunks for token in chunk.token_ids] == out.token_ids
    return out


def text_of(llm: LLM, token_ids: list[int]) -> str:
    return llm.tokenizer.decode(token_ids)


def test_every_substring_stops_where_it_first_appears(llm: LLM) -> None:
    """Stops of 1 to 12 characters at many places: within a token, across tokens and rounds."""
    free = run(llm)
    assert free.text == text_of(llm, free.token_ids)
    for begin in range(0, len(free.text) - 12, by_backend(cpu=5, cuda=41)):
        for length in (1, 2, 5, 12):
            stop = free.text[begin : begin + length]
            if "\N{REPLACEMENT CHARACTER}" in stop:
                continue  # it stands for bytes that are no text, which no stop can match
            out = run(llm, stop=stop)
            cut = free.text.index(stop)
            assert out.text == free.text[:cut]
            assert (out.finish_reason, out.stop_reason) == ("stop", stop)
            # The token that completes the stop is the last one.
            kept = len(out.token_ids)
            assert out.token_ids == free.token_ids[:kept]
            assert stop in text_of(llm, out.token_ids)
            assert stop not in text_of(llm, out.token_ids[:-1])
            assert sum(r.committed for r in out.metrics.rounds) == kept - 1


def test_the_first_of_several_stops_wins(llm: LLM) -> None:
    free = run(llm)
    early, late = free.text[20:24], free.text[40:44]
    out = run(llm, stop=[late, "never appears", early])
    assert out.text == free.text[: min(free.text.index(early), free.text.index(late))]


def test_a_stop_that_never_comes_changes_nothing(llm: LLM) -> None:
    free = run(llm)
    out = run(llm, stop=["\N{SNOWMAN}\N{SNOWMAN}", free.text + "!"])
    assert (out.text, out.token_ids) == (free.text, free.token_ids)
    assert (out.finish_reason, out.stop_reason) == ("length", None)


def test_stop_sequences_stay_in_the_completion(llm: LLM) -> None:
    free, vocab = run(llm), llm.core.vocab
    for begin in (0, 1, 7, 20):
        sequence = free.token_ids[begin : begin + 3]
        out = run(llm, stop_sequences=[[vocab - 2, vocab - 1], sequence])
        assert out.token_ids[-3:] == sequence
        assert out.token_ids == free.token_ids[: len(out.token_ids)]
        assert (out.finish_reason, out.stop_reason) == ("stop", sequence[-1])
        assert out.text == text_of(llm, out.token_ids)


def test_a_stop_token_is_named(llm: LLM) -> None:
    free = run(llm)
    token = free.token_ids[9]
    out = run(llm, stop_token_ids=[token])
    assert out.stop_reason == token


def test_min_tokens_holds_back_every_stop(llm: LLM) -> None:
    free = run(llm)
    text = run(llm, stop=free.text[0], min_tokens=25)
    assert len(text.token_ids) >= 25
    assert text.token_ids == free.token_ids[: len(text.token_ids)]
    sequence = run(llm, stop_sequences=[[free.token_ids[0]]], min_tokens=10)
    assert len(sequence.token_ids) >= 10
    # A stop token is not only ignored before min_tokens: it cannot be chosen.
    token = free.token_ids[0]
    held = run(llm, stop_token_ids=[token], min_tokens=10)
    assert token not in held.token_ids[:10]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_methods_agree_with_stops(
    temperature: float, demo_bundle: Path, prompts: list[dict[str, str]]
) -> None:
    plain = LLM(demo_bundle, method="autoregressive", threads=2)
    fast = LLM(demo_bundle, method="speculative", num_speculative_tokens=6, threads=2)
    for number, row in enumerate(prompts[:: by_backend(cpu=10, cuda=2)]):
        params = SamplingParams(
            temperature=temperature,
            max_tokens=TOKENS,
            min_tokens=4,
            stop=[".", " the", "SELECT", "\n\n"],
            seed=number,
        )
        [expected] = plain.generate(row["prompt"], params)
        [actual] = fast.generate(row["prompt"], params)
        assert actual.token_ids == expected.token_ids
        assert actual.text == expected.text
        assert actual.stop_reason == expected.stop_reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": ""}, "stop must hold texts"),
        ({"stop": ["a", 3]}, "stop must hold texts"),
        ({"stop_sequences": [[]]}, "stop_sequences"),
        ({"stop_sequences": [3]}, "stop_sequences"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 17}, r"min_tokens must be in \[0, 16\]"),
    ],
)
def test_bad_stops_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParams(**options)  # type: ignore[arg-type]


def test_a_stop_token_must_exist(llm: LLM) -> None:
    vocab = llm.core.vocab
    with pytest.raises(ValueError, match=f"token {vocab} is outside of the vocabulary"):
        llm.generate(PROMPT, SamplingParams(stop_token_ids=[vocab]))

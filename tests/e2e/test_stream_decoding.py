"""Streaming: the target drafts for itself, and the tokens are the same whatever is asked for."""

from pathlib import Path

import pytest
from backends import by_backend
from bundles import bundle_of, tiny_model
from reference.tiny_llama import write_tiny_llama
from reference.tiny_streaming import TinyStreaming, write_tiny_streaming
from specrt import LLM, SamplingParams
from specrt.bundle import open_bundle

PROMPT = [10, 50, 7, 90, 33]
TOKENS = by_backend(cpu=60, cuda=12)
CONTEXT = 96
STREAMS = 4
MODEL = TinyStreaming(tiny_model(layers=4, context=CONTEXT), streams=STREAMS, scale=0.02)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    target = write_tiny_llama(folder / "target", MODEL.target)
    adapter = write_tiny_streaming(folder / "adapter", MODEL, target)
    return bundle_of(target, folder / "bundle", draft=adapter)


@pytest.fixture(scope="module")
def plain(bundle: Path) -> LLM:
    return LLM(bundle, "autoregressive", threads=1)


@pytest.fixture(scope="module")
def streaming(bundle: Path) -> LLM:
    return LLM(bundle, "streaming", tree_nodes=12, threads=2)


@pytest.mark.parametrize(
    ("streams", "nodes", "kept"),
    by_backend(
        cpu=[
            *((streams, 0, 0) for streams in (1, 2, 3, 4)),
            *((streams, nodes, 0) for streams in (1, 4) for nodes in (1, 7, 11, 30, 63)),
            *((4, 63, kept) for kept in (2, 5, 12)),
            (2, 20, 3),
        ],
        cuda=[(1, 0, 0), (4, 11, 0), (4, 40, 5)],
    ),
)
def test_every_size(streams: int, nodes: int, kept: int, bundle: Path, plain: LLM) -> None:
    llm = LLM(bundle, "streaming", streams, tree_nodes=nodes, kept_nodes=kept, threads=2)
    for seed in range(by_backend(cpu=6, cuda=2)):
        params = SamplingParams(temperature=0.4 * seed, max_tokens=TOKENS, seed=seed)
        prompt = PROMPT[: 1 + seed % 5]
        [expected] = plain.generate([prompt], params)
        [out] = llm.generate([prompt], params)
        assert out.token_ids == expected.token_ids
        rows = (kept or 64 // (1 + streams)) if nodes else 1 + streams
        assert all(r.accepted <= min(streams, rows - 1) for r in out.metrics.rounds)


def test_trees_accept_more_than_chains(bundle: Path, streaming: LLM) -> None:
    chains = LLM(bundle, "streaming", tree_nodes=0, threads=2)
    accepted = {"chain": 0, "tree": 0}
    for seed in range(by_backend(cpu=10, cuda=4)):
        params = SamplingParams(temperature=0.7, max_tokens=TOKENS, seed=seed, ignore_eos=True)
        for name, llm in (("chain", chains), ("tree", streaming)):
            [out] = llm.generate([PROMPT], params)
            accepted[name] += sum(r.accepted for r in out.metrics.rounds)
    assert accepted["tree"] > accepted["chain"]


def test_the_tokens_do_not_depend_on_the_adapter(bundle: Path, plain: LLM, tmp_path: Path) -> None:
    target = write_tiny_llama(tmp_path / "target", MODEL.target)
    without = LLM(bundle_of(target, tmp_path / "bundle"), "autoregressive", threads=2)
    for temperature in (0.0, 1.0):
        params = SamplingParams(temperature=temperature, max_tokens=TOKENS, seed=4)
        assert without.generate([PROMPT], params)[0].token_ids == (
            plain.generate([PROMPT], params)[0].token_ids
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"repetition_penalty": 1.4, "frequency_penalty": 0.5, "presence_penalty": 0.3},
        {"logit_bias": {3: 4.0, 5: -3.0}},
        {"min_tokens": 30},
        {"top_k": 5, "top_p": 0.9},
        {"min_p": 0.05},
        {"logprobs": 3},
    ],
)
def test_options(changes: dict[str, float], plain: LLM, streaming: LLM) -> None:
    for temperature in (0.0, 1.0):
        params = SamplingParams(
            temperature=temperature, max_tokens=max(TOKENS, 30), seed=5, **changes
        )
        [expected] = plain.generate([PROMPT], params)
        [out] = streaming.generate([PROMPT], params)
        assert out.token_ids == expected.token_ids
        assert out.logprobs == expected.logprobs


@pytest.mark.parametrize("length", [1, 2, 58, 59, 60, 61, 64, 65, CONTEXT - 3, CONTEXT - 1])
def test_prompt_lengths_and_the_end_of_the_context(length: int, plain: LLM, streaming: LLM) -> None:
    prompt = [3 + i % 200 for i in range(length)]
    params = SamplingParams(temperature=0.7, max_tokens=200, seed=1, ignore_eos=True)
    if length < CONTEXT - TOKENS:
        params = SamplingParams(temperature=0.7, max_tokens=TOKENS, seed=1, ignore_eos=True)
    [expected] = plain.generate([prompt], params)
    [out] = streaming.generate([prompt], params)
    assert out.token_ids == expected.token_ids
    assert out.finish_reason == "length"


def test_the_next_turn_feeds_what_is_new(streaming: LLM, plain: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    [first] = streaming.generate([PROMPT], params)
    longer = [*PROMPT, *first.token_ids, 11, 12]
    [second] = streaming.generate([longer], params)
    assert second.metrics.cached_tokens > len(PROMPT)
    assert second.token_ids == plain.generate([longer], params)[0].token_ids


def test_stops_and_cancelled_requests(streaming: LLM, plain: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    [expected] = plain.generate([PROMPT], params)
    stop = expected.token_ids[TOKENS // 2]
    stopping = SamplingParams(temperature=0.0, max_tokens=TOKENS, stop_token_ids=[stop])
    assert streaming.generate([PROMPT], stopping)[0].token_ids == (
        plain.generate([PROMPT], stopping)[0].token_ids
    )
    for chunk in streaming.stream(PROMPT, params):
        assert chunk.token_ids
        break
    assert streaming.generate([PROMPT], params)[0].token_ids == expected.token_ids


def test_what_is_not_possible_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_speculative_tokens 5 is more than the 4 streams"):
        LLM(bundle, "streaming", STREAMS + 1)
    with pytest.raises(ValueError, match="pearl:streaming"):
        LLM(bundle, "pearl:streaming")
    with pytest.raises(ValueError, match="rule"):
        LLM(bundle, "streaming", rule="rejection")
    with pytest.raises(ValueError, match='kept_nodes belong to "streaming"'):
        LLM(bundle, "autoregressive", kept_nodes=3)
    with pytest.raises(ValueError, match="kept_nodes must be in"):
        LLM(bundle, "streaming", kept_nodes=64)
    target = write_tiny_llama(tmp_path / "target", MODEL.target)
    without = bundle_of(target, tmp_path / "bundle")
    with pytest.raises(ValueError, match="has no streams; build it with"):
        LLM(without, "streaming")
    assert open_bundle(without).streams == 0
    assert open_bundle(bundle).streams == STREAMS

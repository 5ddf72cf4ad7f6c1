"""Trees of drafts: the same tokens whatever is asked for, and tokens beside the best draft."""

from pathlib import Path

import pytest
from backends import by_backend
from bundles import bundle_of, tiny_model, write_mask_drafter
from reference.tiny_llama import write_tiny_llama
from specrt import LLM, SamplingParams, _core

PROMPT = [10, 50, 7, 90, 33]
TOKENS = by_backend(cpu=60, cuda=12)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    target = write_tiny_llama(folder / "target", tiny_model(context=96))
    small = write_tiny_llama(folder / "small", tiny_model(context=96, layers=1))
    drafts = [small, write_mask_drafter(target, folder / "draft")]
    return bundle_of(target, folder / "bundle", draft=drafts)


@pytest.fixture(scope="module")
def plain(bundle: Path) -> LLM:
    return LLM(bundle, "autoregressive", threads=1)


@pytest.fixture(scope="module", params=["parallel", "speculative"])
def trees(request: pytest.FixtureRequest, bundle: Path) -> LLM:
    return LLM(bundle, request.param, 5, tree_nodes=20, threads=2)


@pytest.mark.parametrize("method", ["parallel", "speculative"])
@pytest.mark.parametrize("nodes", by_backend(cpu=[1, 2, 6, 31, 63], cuda=[6, 40]))
@pytest.mark.parametrize("depth", by_backend(cpu=[1, 3, 8, 16], cuda=[3]))
def test_every_size(method: str, nodes: int, depth: int, bundle: Path, plain: LLM) -> None:
    llm = LLM(bundle, method, depth, tree_nodes=nodes, threads=2)
    for seed in range(by_backend(cpu=6, cuda=2)):
        params = SamplingParams(temperature=0.4 * seed, max_tokens=TOKENS, seed=seed)
        prompt = PROMPT[: 1 + seed % 5]
        [expected] = plain.generate([prompt], params)
        [out] = llm.generate([prompt], params)
        assert out.token_ids == expected.token_ids
        assert all(r.drafted <= nodes and r.accepted <= depth for r in out.metrics.rounds)


def test_trees_accept_more_than_chains(bundle: Path, trees: LLM) -> None:
    chains = LLM(bundle, trees.method, 5, threads=2)
    accepted = {"chain": 0, "tree": 0}
    for seed in range(by_backend(cpu=10, cuda=3)):
        params = SamplingParams(temperature=1.0, max_tokens=TOKENS, seed=seed, ignore_eos=True)
        for name, llm in (("chain", chains), ("tree", trees)):
            [out] = llm.generate([PROMPT], params)
            accepted[name] += sum(r.accepted for r in out.metrics.rounds)
    assert accepted["tree"] > accepted["chain"]


@pytest.mark.parametrize(
    "changes",
    [
        {"repetition_penalty": 1.4, "frequency_penalty": 0.5, "presence_penalty": 0.3},
        {"logit_bias": {3: 4.0, 5: -3.0}},
        {"min_tokens": 30},
        {"top_k": 5, "top_p": 0.9},
        {"min_p": 0.05},
    ],
)
def test_options_that_change_logits(changes: dict[str, float], plain: LLM, trees: LLM) -> None:
    for temperature in (0.0, 1.0):
        params = SamplingParams(
            temperature=temperature, max_tokens=max(TOKENS, 30), seed=5, **changes
        )
        [expected] = plain.generate([PROMPT], params)
        [out] = trees.generate([PROMPT], params)
        assert out.token_ids == expected.token_ids


def test_log_probabilities_are_those_of_the_path(plain: LLM, trees: LLM) -> None:
    params = SamplingParams(temperature=0.8, max_tokens=TOKENS, seed=2, logprobs=3)
    [expected] = plain.generate([PROMPT], params)
    [out] = trees.generate([PROMPT], params)
    assert out.token_ids == expected.token_ids
    assert out.logprobs == expected.logprobs


def test_the_cache_behind_trees_is_that_of_a_chain(plain: LLM, trees: LLM) -> None:
    """The next turn reuses what trees left; its tokens are those of a fresh prompt."""
    params = SamplingParams(temperature=0, max_tokens=by_backend(cpu=30, cuda=8), ignore_eos=True)
    [first] = trees.generate([PROMPT], params)
    turn = [*PROMPT, *first.token_ids, 12, 13]
    [second] = trees.generate([turn], params)
    assert second.metrics.cached_tokens >= len(turn) - 3
    assert second.token_ids == plain.generate([turn], params)[0].token_ids


def test_no_mask_stays_among_the_tokens(bundle: Path, trees: LLM) -> None:
    """The mask is no token of the target: whatever is fed later must not find one."""
    params = SamplingParams(temperature=0, max_tokens=by_backend(cpu=30, cuda=8), ignore_eos=True)
    trees.generate([PROMPT], params)
    target = _core.EngineRole.target
    assert all(ms > 0 for ms in trees.core.time_steps(target, 16, len(PROMPT), 2))


def test_the_end_of_the_context(plain: LLM, trees: LLM) -> None:
    prompt = (PROMPT * 20)[:93]
    params = SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)
    [out] = trees.generate([prompt], params)
    assert out.token_ids == plain.generate([prompt], params)[0].token_ids
    assert len(out.token_ids) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "parallel", "tree_nodes": 64}, r"tree_nodes must be in \[0, 63\], not 64"),
        ({"method": "parallel", "tree_nodes": -1}, r"tree_nodes must be in \[0, 63\], not -1"),
        ({"method": "parallel", "tree_nodes": "8"}, "tree_nodes must be an integer"),
        ({"method": "parallel", "tree_nodes": True}, "tree_nodes must be an integer"),
        ({"method": "pearl:parallel", "tree_nodes": 8}, "not by 'pearl:parallel'"),
        ({"method": "autoregressive", "tree_nodes": 8}, "not by 'autoregressive'"),
        (
            {"method": "parallel", "tree_nodes": 8, "rule": "block"},
            "not by 'parallel' under 'block'",
        ),
    ],
)
def test_trees_that_cannot_be_are_refused(
    arguments: dict[str, object], message: str, bundle: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        LLM(bundle, num_speculative_tokens=4 if "par" in str(arguments) else None, **arguments)

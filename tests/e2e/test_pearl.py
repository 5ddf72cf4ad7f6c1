"""PEARL: the tokens are those of autoregressive decoding, whatever overlaps."""

from itertools import pairwise
from pathlib import Path

import pytest
from backends import by_backend
from specrt import LLM, SamplingParams
from specrt.eval.overlap import draft_overlap
from specrt.methods import METHODS, Pace, drafter_of

# The others need other drafters: test_parallel_decoding.py, test_feature_pearl.py.
PEARL = tuple(m for m in METHODS if drafter_of(m) in (None, "draft") and m.startswith("pearl"))
PROMPT = "one two one two one two three"


@pytest.fixture(scope="module")
def plain(tiny_bundle: Path) -> LLM:
    return LLM(tiny_bundle, method="autoregressive", threads=1)


@pytest.mark.parametrize("gamma", range(1, 9))
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_every_gamma_and_prompt_length(
    gamma: int, temperature: float, tiny_bundle: Path, plain: LLM
) -> None:
    llm = LLM(tiny_bundle, "pearl", gamma, threads=2)
    accepted = 0
    for length in by_backend(cpu=range(1, 45, 2), cuda=(1, 2, 19)):
        prompt = [(7 * i * i + gamma) % 200 for i in range(length)]
        params = SamplingParams(
            temperature=temperature, max_tokens=by_backend(cpu=40, cuda=12), seed=length
        )
        [expected] = plain.generate([prompt], params)
        [out] = llm.generate([prompt], params)
        assert out.token_ids == expected.token_ids, length
        assert out.finish_reason == expected.finish_reason
        accepted += sum(r.accepted for r in out.metrics.rounds)
        assert all(r.drafted <= gamma for r in out.metrics.rounds)
    assert accepted > 0


@pytest.mark.parametrize("method", PEARL)
@pytest.mark.parametrize("run_ahead", [0, 1, 2])
def test_every_drafter(method: str, run_ahead: int, tiny_bundle: Path, plain: LLM) -> None:
    llm = LLM(tiny_bundle, method, 4, run_ahead=run_ahead, threads=2)
    for seed in range(by_backend(cpu=12, cuda=2)):
        params = SamplingParams(temperature=0.3 * seed, max_tokens=40, seed=seed)
        [expected] = plain.generate(PROMPT, params)
        [out] = llm.generate(PROMPT, params)
        assert out.token_ids == expected.token_ids
        assert out.method == method


def test_every_max_tokens(tiny_bundle: Path, plain: LLM) -> None:
    """Nothing unverified at the tail, and nothing behind the end."""
    llm = LLM(tiny_bundle, "pearl", 5, threads=2)
    for most in by_backend(cpu=range(1, 30), cuda=(1, 2, 9)):
        params = SamplingParams(temperature=0, max_tokens=most, ignore_eos=True)
        [expected] = plain.generate(PROMPT, params)
        [out] = llm.generate(PROMPT, params)
        assert out.token_ids == expected.token_ids
        assert sum(r.committed for r in out.metrics.rounds) == len(out.token_ids) - 1


@pytest.mark.cpu_only("one GPU has no cores to divide")
@pytest.mark.parametrize(("threads", "draft_threads"), [(1, None), (2, None), (2, 1), (3, 2)])
def test_shares_of_the_cores(
    threads: int, draft_threads: int | None, tiny_bundle: Path, plain: LLM
) -> None:
    llm = LLM(tiny_bundle, "pearl", 4, threads=threads, draft_threads=draft_threads)
    params = SamplingParams(temperature=0, max_tokens=40)
    assert llm.generate(PROMPT, params)[0].token_ids == (
        plain.generate(PROMPT, params)[0].token_ids
    )


@pytest.mark.parametrize("draft_threads", [0, 2, -1, 1.5])
def test_impossible_shares_are_refused(draft_threads: int, tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match="draft_threads must be at least 1"):
        LLM(tiny_bundle, "pearl", 4, threads=2, draft_threads=draft_threads)


def test_shares_are_refused_where_nothing_overlaps(tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match='draft_threads belong to "pearl" methods'):
        LLM(tiny_bundle, "speculative", 4, threads=2, draft_threads=1)


def test_paced_steps_last_as_long_as_told_and_overlap(tiny_bundle: Path, plain: LLM) -> None:
    pace = Pace(target_ms=8.0, draft_ms=2.0)
    params = SamplingParams(temperature=0, max_tokens=20)
    outputs = {}
    for method in ("speculative", "pearl"):
        llm = LLM(tiny_bundle, method, 3, threads=2, pace=pace)
        [outputs[method]] = llm.generate(PROMPT, params)
        assert outputs[method].token_ids == plain.generate(PROMPT, params)[0].token_ids
        least = {"target": 8.0, "draft": 2.0}
        steps = outputs[method].metrics.steps
        assert {step.role for step in steps} == {"target", "draft"}
        assert all(s.end_ms - s.begin_ms >= 0.999 * least[s.role] for s in steps)
        assert sum(s.role == "target" for s in steps) == len(outputs[method].metrics.rounds)
    assert draft_overlap([outputs["speculative"].metrics.steps]) == 0.0
    overlap = draft_overlap([outputs["pearl"].metrics.steps])
    assert overlap is not None
    assert overlap > 0.0


def test_steps_are_traced_for_the_request_alone(tiny_bundle: Path) -> None:
    llm = LLM(tiny_bundle, "pearl", 3, threads=2, trace_steps=True)
    params = SamplingParams(temperature=0, max_tokens=20)
    for _ in range(3):
        metrics = llm.generate(PROMPT, params)[0].metrics
        for role in ("target", "draft"):
            steps = [step for step in metrics.steps if step.role == role]
            assert steps[0].begin_ms > 0.0
            assert steps[-1].end_ms < metrics.total_ms + 1.0
            assert all(a.end_ms <= b.begin_ms for a, b in pairwise(steps))
    untraced = LLM(tiny_bundle, "pearl", 3, threads=2).generate(PROMPT, params)[0]
    assert untraced.metrics.steps == []


@pytest.mark.cpu_only("CUDA refuses phases")
@pytest.mark.parametrize("method", PEARL)
@pytest.mark.parametrize("phases", ["pre_verify_only", "post_verify_only"])
def test_one_phase_alone_gives_the_same_tokens(
    phases: str, method: str, tiny_bundle: Path, plain: LLM
) -> None:
    rounds = []
    for tokens in (1, 2, 3, 7):
        llm = LLM(tiny_bundle, method, tokens, phases=phases, threads=2)
        for most in (1, 2, 9, 40):
            for seed in range(3):
                params = SamplingParams(temperature=0.4 * seed, max_tokens=most, seed=seed)
                [expected] = plain.generate(PROMPT, params)
                [out] = llm.generate(PROMPT, params)
                assert out.token_ids == expected.token_ids
                rounds += out.metrics.rounds
    postponed = [r for r in rounds if r.committed == 0]
    assert bool(postponed) == (phases == "post_verify_only")
    assert all(r.drafted > 0 and r.accepted == 0 for r in postponed)


def test_impossible_phases_are_refused(tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match="phases must be one of both, pre_verify_only"):
        LLM(tiny_bundle, "pearl", phases="neither")
    with pytest.raises(ValueError, match='belong to "pearl" methods'):
        LLM(tiny_bundle, "speculative", phases="pre_verify_only")


@pytest.mark.cpu_only("CUDA refuses phases under every rule")
def test_phases_are_refused_under_other_rules(tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match="judged by the rule exact only"):
        LLM(tiny_bundle, "pearl", phases="pre_verify_only", rule="block")


@pytest.mark.parametrize("rule", ["typical", "", "Exact"])
def test_unknown_rules_are_refused(rule: str, tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match="rule must be one of exact, rejection, block"):
        LLM(tiny_bundle, rule=rule)


@pytest.mark.parametrize("rule", ["rejection", "block"])
@pytest.mark.parametrize("method", ["speculative", "ngram+speculative", "pearl"])
def test_rules_keep_greedy_tokens_and_repeat_sampled_ones(
    rule: str, method: str, tiny_bundle: Path, plain: LLM
) -> None:
    llm = LLM(tiny_bundle, method, 4, rule=rule, threads=2)
    most = by_backend(cpu=40, cuda=16)
    greedy = SamplingParams(temperature=0, max_tokens=most)
    assert llm.generate(PROMPT, greedy)[0].token_ids == plain.generate(PROMPT, greedy)[0].token_ids
    sampled = SamplingParams(temperature=0.9, top_k=20, max_tokens=most, seed=4)
    first = llm.generate(PROMPT, sampled)[0].token_ids
    again = (llm.generate(PROMPT, sampled)[0].token_ids for _ in range(by_backend(cpu=5, cuda=2)))
    assert all(token_ids == first for token_ids in again)

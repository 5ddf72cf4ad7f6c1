"""Drafters on the CPU, wherever the target runs: the tokens are those of the target alone."""

from pathlib import Path

import pytest
from backends import BACKEND, by_backend
from bundles import bundle_of, tiny_model, write_mask_drafter
from reference.tiny_llama import write_tiny_llama
from specrt import LLM, SamplingParams
from specrt.build import BuildError, build
from specrt.build.engine_file import read_header

METHODS = ("speculative", "pearl", "ngram+speculative", "pearl:ngram+speculative", "pearl:parallel")
TREES = ("speculative", "parallel")
PROMPTS = ([5], [100, 120, 7, 50, 100, 120], list(range(3, 40)))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_llama(folder / "target", tiny_model(context=64))
    write_tiny_llama(folder / "draft", tiny_model(context=48, layers=1))
    write_mask_drafter(folder / "draft", folder / "parallel")
    return folder


@pytest.fixture(scope="module")
def bundle(models: Path) -> Path:
    drafts = [models / "draft", models / "parallel"]
    return bundle_of(models / "target", models / "bundle", draft=drafts, draft_backend="cpu")


def test_each_engine_is_packed_for_its_backend(bundle: Path) -> None:
    assert read_header(bundle / "target.engine").plan.backend == BACKEND
    for name in ("draft", "parallel"):
        assert read_header(bundle / "drafters" / f"{name}.engine").plan.backend == "cpu"


@pytest.mark.parametrize(
    ("method", "nodes"), [*((name, 0) for name in METHODS), *((name, 9) for name in TREES)]
)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_tokens_are_those_of_the_target_alone(
    method: str, nodes: int, temperature: float, bundle: Path
) -> None:
    plain = LLM(bundle, "autoregressive", threads=2)
    llm = LLM(bundle, method, 4, tree_nodes=nodes, threads=2)
    most = by_backend(cpu=24, cuda=16)
    params = SamplingParams(temperature=temperature, max_tokens=most, seed=3, ignore_eos=True)
    accepted = 0
    for prompt in PROMPTS:
        [expected] = plain.generate([prompt], params)
        [out] = llm.generate([prompt], params)
        assert out.token_ids == expected.token_ids
        accepted += sum(r.accepted for r in out.metrics.rounds)
    assert accepted > 0


@pytest.mark.parametrize("rule", ["rejection", "block"])
def test_other_rules_repeat(rule: str, bundle: Path) -> None:
    llm = LLM(bundle, "pearl", 3, rule=rule, threads=2)
    params = SamplingParams(temperature=0.9, max_tokens=12, seed=5, ignore_eos=True)
    first = llm.generate([PROMPTS[1]], params)[0].token_ids
    assert llm.generate([PROMPTS[1]], params)[0].token_ids == first


def test_steps_of_both_are_traced_on_one_clock(bundle: Path) -> None:
    llm = LLM(bundle, "speculative", 3, threads=2, trace_steps=True)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    metrics = llm.generate([PROMPTS[1]], params)[0].metrics
    assert {step.role for step in metrics.steps} == {"target", "draft"}
    assert all(0.0 < s.begin_ms <= s.end_ms < metrics.total_ms + 1.0 for s in metrics.steps)


def test_drafters_on_a_gpu_beside_a_target_on_the_cpu_are_refused(
    models: Path, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match="drafters run where the target does"):
        build(
            models / "target",
            draft=models / "draft",
            out=tmp_path / "bundle",
            backend="cpu",
            draft_backend="cuda",
            progress=False,
            tune=False,
        )

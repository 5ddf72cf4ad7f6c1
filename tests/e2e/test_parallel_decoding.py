"""The drafter that fills masks: same tokens, and drafts that its own logits foretell."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from backends import by_backend
from bundles import bundle_of, tiny_model, write_mask_drafter
from reference.tiny_llama import write_tiny_llama
from specrt import LLM, Error, SamplingParams, _core
from specrt.build import BuildError, build

DRAFTER = _core.EngineRole.drafter
PROMPT = [10, 50, 7, 90, 33]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    target = write_tiny_llama(folder / "target", tiny_model(context=96))
    write_tiny_llama(folder / "draft", tiny_model(context=96, layers=1, seed=2))
    write_mask_drafter(target, folder / "parallel")
    return folder


@pytest.fixture(scope="module")
def bundle(models: Path) -> Path:
    drafts = (models / "draft", models / "parallel")
    return bundle_of(models / "target", models / "bundle", draft=drafts)


@pytest.fixture(scope="module")
def plain(bundle: Path) -> LLM:
    return LLM(bundle, "autoregressive", threads=1)


@pytest.mark.parametrize("method", ["parallel", "pearl:parallel"])
@pytest.mark.parametrize("length", by_backend(cpu=[1, 2, 3, 5, 8, 16, 32], cuda=[1, 5]))
def test_every_draft_length(method: str, length: int, bundle: Path, plain: LLM) -> None:
    llm = LLM(bundle, method, length, threads=2)
    accepted = 0
    for seed in range(by_backend(cpu=8, cuda=2)):
        params = SamplingParams(
            temperature=0.3 * seed, max_tokens=by_backend(cpu=70, cuda=12), seed=seed
        )
        prompt = PROMPT[: 1 + seed % 5]
        [expected] = plain.generate([prompt], params)
        [out] = llm.generate([prompt], params)
        assert out.token_ids == expected.token_ids
        assert all(r.drafted <= length for r in out.metrics.rounds)
        accepted += sum(r.accepted for r in out.metrics.rounds)
    assert accepted > 0


def test_rounds_accept_what_the_drafter_s_logits_foretell(bundle: Path, plain: LLM) -> None:
    """Each round: the committed tokens and masks through the drafter, by its logits alone."""
    length, tokens = 4, by_backend(cpu=40, cuda=10)
    llm = LLM(bundle, "parallel", length, threads=1)
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    [out] = llm.generate([PROMPT], params)
    text = [*PROMPT, *plain.generate([PROMPT], params)[0].token_ids]
    mask, limit = llm.core.vocab, len(text)
    committed = len(PROMPT) + 1
    for each in out.metrics.rounds:
        drafted = min(length, limit - committed - 1)
        assert each.drafted == drafted
        accepted = 0
        if drafted > 0:
            fed = [*text[:committed], *[mask] * (drafted - 1)]
            rows = llm.core.logits(DRAFTER, fed)[-drafted:, :mask]
            for draft, right in zip(np.argmax(rows, axis=1), text[committed:], strict=False):
                if draft != right:
                    break
                accepted += 1
        assert each.accepted == accepted
        committed += accepted + 1
    assert committed == limit


def test_a_draft_takes_one_step(bundle: Path) -> None:
    llm = LLM(bundle, "parallel", 6, threads=1, trace_steps=True)
    metrics = llm.generate([PROMPT], SamplingParams(temperature=0, max_tokens=40))[0].metrics
    drafts = sum(r.drafted > 0 for r in metrics.rounds)
    assert sum(step.role == "draft" for step in metrics.steps) == drafts > 0


def test_too_long_a_draft_is_refused(bundle: Path) -> None:
    llm = LLM(bundle, "parallel", 33, threads=1)
    with pytest.raises(Error, match="cannot draft 33 tokens at once; at most 32"):
        llm.generate([PROMPT], SamplingParams(max_tokens=40))


def test_a_bundle_without_it_says_how_to_build_one(models: Path, tmp_path: Path) -> None:
    bundle = bundle_of(models / "target", tmp_path / "bundle", draft=models / "draft")
    with pytest.raises(ValueError, match="has no parallel drafter; build it with"):
        LLM(bundle, "parallel")


def test_a_parallel_drafter_alone(models: Path, tmp_path: Path, plain: LLM) -> None:
    bundle = bundle_of(models / "target", tmp_path / "bundle", draft=models / "parallel")
    with pytest.raises(ValueError, match="has no draft model"):
        LLM(bundle, "speculative")
    params = SamplingParams(temperature=0, max_tokens=10)
    [out] = LLM(bundle, "parallel", 3, threads=1).generate([PROMPT], params)
    assert out.token_ids == plain.generate([PROMPT], params)[0].token_ids


def test_a_mask_within_the_vocabulary(models: Path, tmp_path: Path, plain: LLM) -> None:
    """As PARD has it: a token that the tokenizer does not use."""
    drafter = tmp_path / "drafter"
    shutil.copytree(models / "target", drafter)
    config = json.loads((drafter / "config.json").read_text())
    (drafter / "config.json").write_text(json.dumps(config | {"pard_token": 5}))
    bundle = bundle_of(models / "target", tmp_path / "bundle", draft=drafter)
    params = SamplingParams(temperature=0, max_tokens=20)
    [out] = LLM(bundle, "parallel", 3, threads=1).generate([PROMPT], params)
    assert out.token_ids == plain.generate([PROMPT], params)[0].token_ids
    assert sum(r.accepted for r in out.metrics.rounds) > 0


def test_two_drafts_of_a_kind_are_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="are both for the method speculative"):
        build(
            models / "target",
            draft=[models / "draft", models / "draft"],
            out=tmp_path / "bundle",
            progress=False,
        )


@pytest.mark.parametrize("token", [-1, 10**6, "5", True])
def test_a_mask_that_is_no_token_is_refused(token: object, models: Path, tmp_path: Path) -> None:
    drafter = write_mask_drafter(models / "target", tmp_path / "drafter")
    config = json.loads((drafter / "config.json").read_text())
    (drafter / "config.json").write_text(json.dumps(config | {"pard_token": token}))
    with pytest.raises(BuildError, match=r"pard_token .* is not a token below"):
        build(models / "target", draft=drafter, out=tmp_path / "bundle", progress=False)

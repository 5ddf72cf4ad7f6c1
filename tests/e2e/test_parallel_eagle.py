"""The drafter that reads the target's hidden states: same tokens, and drafts as the reference's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from backends import by_backend
from bundles import bundle_of, tiny_eagle, tiny_model
from eagle_models import greedy_texts, one_thread, write_trained
from reference import parallel_eagle
from reference.tiny_llama import write_tiny_llama
from safetensors.torch import load_file
from specrt import LLM, Error, RequestOutput, SamplingParams
from specrt.methods import Pace

CONTEXT = 96
PROMPTS = [[10 + 7 * i, 50, 7 + i, 90, 33] for i in range(8)]
EAGLE = tiny_eagle(tiny_model(context=CONTEXT), layers=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    target = write_tiny_llama(folder / "target", EAGLE.target)
    write_trained(folder / "eagle", EAGLE, target, greedy_texts(target, PROMPTS, CONTEXT))
    return folder


@pytest.fixture(scope="module")
def bundle(models: Path) -> Path:
    return bundle_of(models / "target", models / "bundle", draft=models / "eagle", dtype="f32")


@pytest.fixture(scope="module")
def plain(bundle: Path) -> LLM:
    return LLM(bundle, "autoregressive", threads=1)


def load(bundle: Path, length: int = 4, **options: bool) -> LLM:
    return LLM(bundle, "parallel-eagle", length, threads=1, **options)


def greedy(tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)


def verdicts(out: RequestOutput) -> list[tuple[int, int]]:
    """Tokens drafted and accepted, round by round."""
    return [(r.drafted, r.accepted) for r in out.metrics.rounds]


@pytest.mark.parametrize("length", by_backend(cpu=[1, 2, 3, 5, 8, 16, 32], cuda=[1, 5]))
def test_every_draft_length(length: int, bundle: Path, plain: LLM) -> None:
    llm = LLM(bundle, "parallel-eagle", length, threads=2)
    accepted = 0
    for seed in range(by_backend(cpu=8, cuda=2)):
        params = SamplingParams(
            temperature=0.3 * seed, max_tokens=by_backend(cpu=70, cuda=12), seed=seed
        )
        prompt = PROMPTS[0][: 1 + seed % 5]
        [expected] = plain.generate([prompt], params)
        [out] = llm.generate([prompt], params)
        assert out.token_ids == expected.token_ids
        assert all(r.drafted <= length for r in out.metrics.rounds)
        accepted += sum(r.accepted for r in out.metrics.rounds)
    assert accepted > 0


def foretold(models: Path, text: list[int], committed: int, length: int) -> list[tuple[int, int]]:
    """Tokens drafted and accepted in every round, by the reference alone."""
    weights = load_file(models / "eagle" / "model.safetensors")
    features = parallel_eagle.target_features(models / "target", text, EAGLE.feature_layers)
    rounds = []
    while committed < len(text):
        drafted = accepted = min(length, len(text) - committed - 1)
        if drafted > 0:
            known = text[:committed]
            logits = parallel_eagle.draft_logits(EAGLE, weights, known, features, drafted)
            wrong = logits[-drafted:].argmax(-1) != torch.tensor(text[committed:][:drafted])
            accepted = int(np.argmax([*wrong, True]))
        rounds.append((drafted, accepted))
        committed += accepted + 1
    return rounds


@pytest.mark.cpu_only("CUDA engines hold bf16, whose drafts may differ")
@pytest.mark.parametrize("length", [1, 4, 7])
def test_rounds_draft_what_the_reference_drafts(
    length: int, models: Path, bundle: Path, plain: LLM
) -> None:
    """Chains of rounds with every number of accepted tokens between none and all."""
    seen = set()
    for prompt in PROMPTS:
        [out] = load(bundle, length).generate([prompt], greedy(60))
        text = [*prompt, *plain.generate([prompt], greedy(60))[0].token_ids]
        with one_thread(), torch.no_grad():
            rounds = foretold(models, text, len(prompt) + 1, length)
        assert verdicts(out) == rounds
        seen |= {accepted for _, accepted in rounds}
    assert len(seen) >= min(length + 1, 4)


def test_a_reused_prefix_has_its_features(bundle: Path, plain: LLM) -> None:
    """Drafts behind a prefix of the text before are those behind a fresh prompt."""
    llm, fresh = load(bundle), load(bundle, enable_prefix_caching=False)
    text = PROMPTS[1]
    for turn in range(by_backend(cpu=4, cuda=2)):
        prompt = [*text, 40 + turn, 41]
        [out] = llm.generate([prompt], greedy(12))
        [wanted] = fresh.generate([prompt], greedy(12))
        assert (out.token_ids, verdicts(out)) == (wanted.token_ids, verdicts(wanted))
        assert out.token_ids == plain.generate([prompt], greedy(12))[0].token_ids
        assert out.metrics.cached_tokens == (len(text) - 1 if turn else 0)
        text = prompt + out.token_ids
    shorter = text[:9]
    [out], [wanted] = (each.generate([shorter], greedy(12)) for each in (llm, fresh))
    assert (out.token_ids, verdicts(out)) == (wanted.token_ids, verdicts(wanted))


def test_cancelled_requests_leave_nothing_behind(bundle: Path) -> None:
    llm, fresh = load(bundle), load(bundle, enable_prefix_caching=False)
    stream = llm.stream(PROMPTS[2], greedy(60))
    got = [token for _ in range(3) for token in next(stream).token_ids]
    stream.close()
    prompt = [*PROMPTS[2], *got, 77]
    [out], [wanted] = (each.generate([prompt], greedy(20)) for each in (llm, fresh))
    assert (out.token_ids, verdicts(out)) == (wanted.token_ids, verdicts(wanted))


@pytest.mark.parametrize("rule", ["rejection", "block"])
@pytest.mark.cpu_only("engines for CUDA know the rule exact only")
def test_other_rules_give_the_greedy_text_at_temperature_0(
    rule: str, bundle: Path, plain: LLM
) -> None:
    llm = LLM(bundle, "parallel-eagle", 4, threads=1, rule=rule)
    [out] = llm.generate([PROMPTS[0]], greedy(40))
    assert out.token_ids == plain.generate([PROMPTS[0]], greedy(40))[0].token_ids
    [sampled] = llm.generate([PROMPTS[0]], SamplingParams(temperature=1, max_tokens=40, seed=1))
    assert sum(r.accepted for r in sampled.metrics.rounds) > 0


def with_context(source: Path, folder: Path, context: int) -> Path:
    """A copy of a drafter that can feed no more than `context` positions."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config["transformer_layer_config"]["max_position_embeddings"] = context
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("window", [3, 5, 6, 12, 30])
def test_beyond_its_window_it_drafts_nothing(
    window: int, models: Path, tmp_path: Path, plain: LLM
) -> None:
    """A draft of c tokens behind E feeds positions below E - 2 + c; the prompt has 5 tokens."""
    drafter = with_context(models / "eagle", tmp_path / "eagle", window)
    bundle = bundle_of(models / "target", tmp_path / "bundle", draft=drafter, dtype="f32")
    [out] = load(bundle).generate([PROMPTS[0]], greedy(40))
    assert out.token_ids == plain.generate([PROMPTS[0]], greedy(40))[0].token_ids
    committed = len(PROMPTS[0]) + 1
    for each in out.metrics.rounds:
        room = min(4, window - committed + 2, 45 - committed - 1)
        assert each.drafted == max(0, room)
        committed += each.committed


@pytest.mark.cpu_only("steps of a CUDA engine cannot be paced")
def test_rounds_without_a_draft_are_caught_up(bundle: Path, plain: LLM) -> None:
    """Lengths that adapt, down to none; the paced steps make drafting pay just so."""
    llm = LLM(bundle, "parallel-eagle", threads=1, pace=Pace(2.0, 1.0))
    lengths = set()
    for prompt in [*PROMPTS, [20, 30, 20, 30, 99]]:
        params = SamplingParams(temperature=1.5, max_tokens=60, seed=3, ignore_eos=True)
        [out] = llm.generate([prompt], params)
        assert out.token_ids == plain.generate([prompt], params)[0].token_ids
        lengths |= {r.drafted for r in out.metrics.rounds}
    assert 0 in lengths and len(lengths) > 1


@pytest.mark.cpu_only("steps of a CUDA engine are not clocked")
def test_a_draft_takes_one_step(bundle: Path) -> None:
    llm = load(bundle, 6, trace_steps=True)
    metrics = llm.generate([PROMPTS[0]], greedy(40))[0].metrics
    drafts = sum(r.drafted > 0 for r in metrics.rounds)
    assert sum(step.role == "draft" for step in metrics.steps) == drafts > 0


def test_too_long_a_draft_is_refused(bundle: Path) -> None:
    with pytest.raises(Error, match="cannot draft 33 tokens at once; at most 32"):
        load(bundle, 33).generate([PROMPTS[0]], greedy(40))


def test_a_bundle_without_it_says_how_to_build_one(models: Path, tmp_path: Path) -> None:
    bundle = bundle_of(models / "target", tmp_path / "bundle", draft=models / "target")
    with pytest.raises(ValueError, match="has no P-EAGLE drafter; build it with"):
        LLM(bundle, "parallel-eagle")


def test_the_engine_of_another_bundle_is_refused(
    models: Path, bundle: Path, tmp_path: Path
) -> None:
    """The drafter under a target that keeps no features."""
    plain_bundle = bundle_of(models / "target", tmp_path / "plain", draft=models / "target")
    shutil.copy(bundle / "drafters" / "parallel-eagle.engine", plain_bundle / "drafters")
    with pytest.raises(Error, match=r"reads \d+ columns of features in \w+, the target keeps 0"):
        load(plain_bundle)


def test_beside_other_drafters(models: Path, tmp_path: Path, plain: LLM) -> None:
    drafts = [models / "target", models / "eagle"]
    bundle = bundle_of(models / "target", tmp_path / "bundle", draft=drafts, dtype="f32")
    for method in ("speculative", "pearl", "ngram", "parallel-eagle"):
        [out] = LLM(bundle, method, 3, threads=2).generate([PROMPTS[0]], greedy(20))
        assert out.token_ids == plain.generate([PROMPTS[0]], greedy(20))[0].token_ids

"""Draft lengths that follow step times and acceptance, and what `auto` takes from measurements."""

import json
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from backends import by_backend
from bundles import bundle_of, tiny_model
from reference.tiny_llama import write_tiny_llama
from specrt import LLM, SamplingParams
from specrt.eval.machine import place_of

# A target whose steps cost nearly the same whatever their rows, and a draft model of a tenth.
STEP_MS = {"target": {"1": 1.0, "64": 1.6}, "draft": {"1": 0.05, "64": 0.3}}
MOST = 16
REQUESTS = by_backend(cpu=20, cuda=5)


def bundle_with(source: Path, place: Path, **curves: Any) -> Path:
    """A copy of a bundle with step times as if measured here with one thread."""
    copy = Path(shutil.copytree(source, place))
    manifest = json.loads((copy / "manifest.json").read_text())
    place = place_of(LLM(copy, "autoregressive", threads=1).core.backend, 1)
    here = {**asdict(place), "step_ms": STEP_MS}
    manifest["curves"] = here | curves
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles by drafter: the target itself, another random model, none."""
    folder = tmp_path_factory.mktemp("adaptive")
    target = write_tiny_llama(folder / "target", tiny_model())
    other = write_tiny_llama(folder / "other", tiny_model(seed=99))
    return {
        "own": bundle_of(target, folder / "own", draft=target),
        "random": bundle_of(target, folder / "random", draft=other),
        "none": bundle_of(target, folder / "none"),
    }


def params_of(seed: int, tokens: int = 60) -> SamplingParams:
    return SamplingParams(temperature=1.0, max_tokens=tokens, seed=seed, ignore_eos=True)


def test_with_the_target_as_its_own_drafter_the_length_reaches_the_maximum(
    models: dict[str, Path], tmp_path: Path
) -> None:
    llm = LLM(bundle_with(models["own"], tmp_path / "b"), "speculative", threads=1)
    assert llm.num_speculative_tokens == MOST
    [out] = llm.generate([5, 6, 7], params_of(1, tokens=200))
    assert MOST in [r.drafted for r in out.metrics.rounds]


def test_a_useless_drafter_is_switched_off_and_then_not_even_prefilled(
    models: dict[str, Path], tmp_path: Path
) -> None:
    dear = {"target": STEP_MS["target"], "draft": {"1": 0.3, "64": 0.9}}
    bundle = bundle_with(models["random"], tmp_path / "b", step_ms=dear)
    llm = LLM(bundle, "speculative", threads=1)
    plain = LLM(models["random"], "autoregressive", threads=1)
    drafted = []
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    for seed in range(REQUESTS):
        [out] = llm.generate([seed + 10] * 20, params)
        [wanted] = plain.generate([seed + 10] * 20, params)
        assert out.token_ids == wanted.token_ids
        drafted.append(sum(r.drafted > 0 for r in out.metrics.rounds))
    assert drafted[0] > 0
    assert sum(drafted) < 0.06 * REQUESTS * 59 + 6  # learning, then rare trials
    assert drafted.count(0) >= REQUESTS // 5


@pytest.mark.parametrize("method", ["speculative", "ngram", "ngram+speculative"])
@pytest.mark.parametrize("drafter", ["own", "random"])
def test_the_output_is_that_of_autoregressive(
    method: str, drafter: str, models: dict[str, Path], tmp_path: Path
) -> None:
    llm = LLM(bundle_with(models[drafter], tmp_path / "b"), method, threads=1)
    plain = LLM(models[drafter], "autoregressive", threads=1)
    for seed in range(by_backend(cpu=20, cuda=2)):
        prompt = [(seed * 7 + i * i) % 200 + 20 for i in range(1 + seed * 4)]
        [out] = llm.generate(prompt, params_of(seed))
        [wanted] = plain.generate(prompt, params_of(seed))
        assert out.token_ids == wanted.token_ids


def test_a_given_length_is_drafted_in_every_round(models: dict[str, Path], tmp_path: Path) -> None:
    bundle = bundle_with(models["random"], tmp_path / "b")
    llm = LLM(bundle, "speculative", num_speculative_tokens=3, threads=1)
    [out] = llm.generate([5, 6, 7], params_of(1))
    assert [r.drafted for r in out.metrics.rounds][:-4] == [3] * (len(out.metrics.rounds) - 4)


@pytest.mark.parametrize(
    ("rates", "method"),
    [
        ({"autoregressive": 100, "speculative": 150, "ngram": 160}, "ngram"),
        ({"autoregressive": 100, "speculative": 101, "ngram": 90}, "autoregressive"),
        ({"autoregressive": 100, "ngram+speculative": 130}, "ngram+speculative"),
        ({"autoregressive": 100, "warp": 900}, "speculative"),
        ({"autoregressive": "fast"}, "speculative"),
        ([], "speculative"),
        ({}, "speculative"),
    ],
)
def test_auto_takes_what_measured_fastest(
    rates: object, method: str, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundle_with(models["own"], tmp_path / "b", tokens_per_second=rates)
    llm = LLM(bundle, threads=1)
    assert llm.method == method
    [out] = llm.generate([5, 6], params_of(0, tokens=2))
    assert out.method == method


def test_auto_before_anything_was_measured(models: dict[str, Path]) -> None:
    assert LLM(models["own"]).method == "speculative"
    assert LLM(models["none"]).method == "autoregressive"
    assert LLM(models["none"], num_speculative_tokens=3).method == "ngram"


def test_step_times_of_another_machine_warn_once_and_are_used(
    models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundle_with(models["own"], tmp_path / "b", machine="Another", threads=64, isa="other")
    with pytest.warns(UserWarning) as caught:
        llm = LLM(bundle, "speculative", threads=1)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "on Another (here: " in text
    assert f"with threads 64 (here: {by_backend(cpu=1, cuda=0)})" in text
    assert "with other (here: " in text
    assert f"specrt tune {bundle}" in text
    assert llm.num_speculative_tokens == MOST
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LLM(bundle, "autoregressive", threads=1)  # needs no step times
        LLM(bundle, "speculative", num_speculative_tokens=2, threads=1)


@pytest.mark.cpu_only("times on the emulator mean nothing, and take minutes")
def test_tuning_measures_steps_and_methods(models: dict[str, Path], tmp_path: Path) -> None:
    from specrt.eval.curves import tune

    copy = Path(shutil.copytree(models["own"], tmp_path / "b"))
    curves = tune(copy, 1)
    assert set(curves.tokens_per_second) == {
        *("autoregressive", "speculative", "ngram", "ngram+speculative", "pearl"),
    }
    assert min(curves.tokens_per_second.values()) > 0
    # The target drafts for itself, so every token of every answer is right.
    reached = curves.acceptance["reached_at_position"]
    assert curves.acceptance["accepted_at_position"] == reached
    assert reached[0] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they belong to this machine
        LLM(copy, threads=1)

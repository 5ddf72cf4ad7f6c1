"""The simulator plays the rounds that the runtime needs for the same text."""

from pathlib import Path

import pytest
from backends import by_backend
from bundles import bundle_of, write_stand_ins
from specrt import LLM, SamplingParams
from specrt.eval.cost_model import SEPARATE_DEVICES
from specrt.eval.method_speed import matches_of
from specrt.eval.simulator import simulate_pearl, simulate_speculative
from specrt.eval.step_costs import StepCosts, StepCurve

# A run's time counts its target steps and its draft steps.
COSTS = StepCosts(StepCurve(((1, 1000.0),)), StepCurve(((1, 1.0),)))
PROMPTS = ("Once upon a time", "def main():", "1 2 3 4 5")
TOKENS = by_backend(cpu=48, cuda=12)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft model that is right now and then."""
    folder = write_stand_ins(tmp_path_factory.mktemp("simulated"))
    return bundle_of(folder / "target", folder / "bundle", draft=folder / "draft")


@pytest.mark.parametrize("length", [1, 2, 5])
def test_rounds_and_drafts_are_those_of_the_runtime(bundle: Path, length: int) -> None:
    llm = LLM(bundle, num_speculative_tokens=length, threads=1)
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    accepted = 0
    for prompt in PROMPTS:
        [output] = llm.generate([prompt], params)
        matches = matches_of(llm, output)
        assert len(matches) == TOKENS - 1
        run = simulate_speculative(COSTS, matches, length)
        rounds = output.metrics.rounds
        assert run.rounds == len(rounds)
        assert run.ms == 1000 * len(rounds) + sum(r.drafted for r in rounds)
        refused = sum(r.accepted < r.drafted for r in rounds)
        assert run.refusals == refused
        accepted += sum(r.accepted for r in rounds)
    assert accepted > 0


@pytest.mark.parametrize("gamma", [1, 2, 5, 8])
def test_pearl_rounds_are_those_of_the_runtime(bundle: Path, gamma: int) -> None:
    llm = LLM(bundle, "pearl", gamma, threads=1)
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    accepted = 0
    for prompt in PROMPTS:
        [output] = llm.generate([prompt], params)
        matches = matches_of(llm, output)
        run = simulate_pearl(COSTS, matches, gamma, SEPARATE_DEVICES)
        rounds = output.metrics.rounds
        assert run.rounds == len(rounds)
        assert run.draft_ms == sum(r.drafted for r in rounds)
        assert run.hidden_ms == run.draft_ms
        accepted += sum(r.accepted for r in rounds)
    assert accepted > 0

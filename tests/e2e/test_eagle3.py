"""EAGLE-3 checkpoints: logits and drafts are the reference's, and no other tokens come out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from backends import by_backend
from bundles import bundle_of, tiny_eagle, tiny_model
from eagle_models import greedy_texts, one_thread
from reference import eagle3, parallel_eagle
from reference.eagle3 import TinyEagle3
from reference.tiny_llama import write_tiny_llama
from specrt import LLM, RequestOutput, SamplingParams
from specrt._core import EngineRole

CONTEXT, LENGTH = 96, 4
TARGET = tiny_model(context=CONTEXT)
# What published folders read: layers 2, half and all but three of them.
BASE = replace(tiny_eagle(TARGET, layers=1), feature_layers=(2, 1, 0))
PROMPTS = [[10 + 7 * i, 50, 7 + i, 90, 33] for i in range(6)]
REDUCED = tuple(range(3, 277, 2))
VARIANTS = {
    "plain": TinyEagle3(BASE),
    "reduced vocabulary": TinyEagle3(BASE, tokens=REDUCED),
    "norms": TinyEagle3(replace(BASE, norm_before_residual=True, fc_norm=True), norm_output=True),
    "norm of all, two layers": TinyEagle3(
        replace(BASE, norm_before_fc=True, decoder=replace(BASE.decoder, layers=2))
    ),
}


def written(folder: Path, model: TinyEagle3, tensors: eagle3.Tensors) -> Path:
    """In the published form where it can say so."""
    if model.base == BASE and not model.norm_output:
        return eagle3.write_published(folder, model, tensors)
    return eagle3.write_speculators(folder, model, tensors)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.cpu_only("CUDA engines hold bf16")
def test_f32_equals_the_reference(name: str, tmp_path: Path) -> None:
    model, w = VARIANTS[name], eagle3.tensors_of(VARIANTS[name])
    target = write_tiny_llama(tmp_path / "target", TARGET)
    drafter = written(tmp_path / "drafter", model, w)
    bundle = bundle_of(target, tmp_path / "bundle", draft=drafter, dtype="f32")
    tokens = np.random.default_rng(5).integers(6, TARGET.vocab, 50).tolist()
    actual = LLM(bundle, "eagle", LENGTH, threads=2).core.logits(EngineRole.drafter, tokens, 64)
    features = parallel_eagle.target_features(target, tokens, model.base.feature_layers)[:-1]
    hidden = parallel_eagle.hidden_state(model.base, w, features)
    states = eagle3.own_states(model, w, torch.tensor(tokens[1:]), hidden)
    wanted = eagle3.scores(model, w, states).numpy()
    known = np.isfinite(wanted)
    assert (np.isfinite(actual[1:]) == known).all()
    error = np.abs(np.asarray(actual)[1:][known] - wanted[known]) / np.ptp(wanted[known])
    assert error.max() < 1e-5


def learned(model: TinyEagle3, target: Path, texts: Sequence[Sequence[int]]) -> eagle3.Tensors:
    """Weights that predict the texts; a few passes of Adam over the true features."""
    tensors = eagle3.tensors_of(model)
    trained = {name: each for name, each in tensors.items() if each.is_floating_point()}
    w = tensors | {name: each.requires_grad_() for name, each in trained.items()}
    optimizer = torch.optim.Adam(trained.values(), lr=3e-3)
    layers = model.base.feature_layers
    features = [parallel_eagle.target_features(target, text, layers) for text in texts]
    with one_thread():
        for _ in range(12):
            for text, known in zip(texts, features, strict=True):
                tokens = torch.tensor(list(text))
                hidden = parallel_eagle.hidden_state(model.base, w, known[:-2])
                found = eagle3.scores(model, w, eagle3.own_states(model, w, tokens[1:-1], hidden))
                kept = torch.isfinite(found.gather(1, tokens[2:, None]))[:, 0]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(found[kept], tokens[2:][kept]).backward()
                optimizer.step()
    return {name: each.detach() for name, each in w.items()}


def verdicts(out: RequestOutput) -> list[tuple[int, int]]:
    return [(r.drafted, r.accepted) for r in out.metrics.rounds]


def foretold(
    model: TinyEagle3, w: eagle3.Tensors, target: Path, text: list[int], committed: int
) -> list[tuple[int, int]]:
    """Tokens drafted and accepted in every round, by the reference alone."""
    features = parallel_eagle.target_features(target, text, model.base.feature_layers)
    rounds = []
    while committed < len(text):
        drafted = accepted = min(LENGTH, len(text) - committed - 1)
        if drafted > 0:
            known = features[: committed - 1]
            draft = eagle3.greedy_draft(model, w, text[:committed], known, drafted)
            wrong = [a != b for a, b in zip(draft, text[committed:], strict=False)]
            accepted = int(np.argmax([*wrong, True]))
        rounds.append((drafted, accepted))
        committed += accepted + 1
    return rounds


@pytest.mark.parametrize("name", by_backend(cpu=list(VARIANTS), cuda=["reduced vocabulary"]))
def test_rounds_draft_what_the_reference_drafts(name: str, tmp_path: Path) -> None:
    model = VARIANTS[name]
    target = write_tiny_llama(tmp_path / "target", TARGET)
    w = learned(model, target, greedy_texts(target, PROMPTS[:3], 40))
    drafter = written(tmp_path / "drafter", model, w)
    dtype = by_backend(cpu="f32", cuda="bf16")
    bundle = bundle_of(target, tmp_path / "bundle", draft=drafter, dtype=dtype)
    llm, plain = LLM(bundle, "eagle", LENGTH, threads=1), LLM(bundle, "autoregressive", threads=1)
    accepted = 0
    for seed, prompt in enumerate(by_backend(cpu=PROMPTS[:3], cuda=PROMPTS[:2])):
        params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
        [out] = llm.generate([prompt], params)
        [expected] = plain.generate([prompt], params)
        assert out.token_ids == expected.token_ids
        if by_backend(cpu=True, cuda=False):
            text = [*prompt, *expected.token_ids]
            with one_thread(), torch.no_grad():
                rounds = foretold(model, w, target, text, len(prompt) + 1)
            assert verdicts(out) == rounds
        accepted += sum(r.accepted for r in out.metrics.rounds)
        sampled = SamplingParams(temperature=0.8, max_tokens=30, seed=seed)
        [out], [expected] = (each.generate([prompt], sampled) for each in (llm, plain))
        assert out.token_ids == expected.token_ids
    assert accepted > 0


@pytest.mark.cpu_only("the builder is the same")
@pytest.mark.parametrize(
    ("offsets", "words"),
    [
        (None, "and there is no d2t that says which"),
        (torch.zeros(5, dtype=torch.int64), "does not name 137 different tokens below 277"),
        (torch.full((137,), 200), "does not name 137 different tokens below 277"),
        (torch.full((137,), -1), "does not name 137 different tokens below 277"),
        (torch.zeros(137), r"is F32 \[137\], not a vector of I64"),
    ],
)
def test_a_draft_vocabulary_that_does_not_fit_is_named(
    offsets: torch.Tensor | None, words: str, tmp_path: Path
) -> None:
    model = VARIANTS["reduced vocabulary"]
    tensors = eagle3.tensors_of(model)
    del tensors["d2t"]
    if offsets is not None:
        tensors["d2t"] = offsets
    target = write_tiny_llama(tmp_path / "target", TARGET)
    drafter = eagle3.write_published(tmp_path / "drafter", model, tensors)
    with pytest.raises(ValueError, match=words):
        bundle_of(target, tmp_path / "bundle", draft=drafter)

"""EAGLE-3 checkpoints: logits and drafts are the reference's, and no other tokens come out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from backends import by_backend
from bundles import bundle_of, tiny_eagle, tiny_model
from eagle_models import check_ranks, greedy_texts, one_thread, tree_rounds
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


class Trained(NamedTuple):
    """A drafter that has learned some of its target's text, and both in a bundle."""

    model: TinyEagle3
    w: eagle3.Tensors
    target: Path
    bundle: Path

    def scores(self, text: list[int]) -> Callable[..., torch.Tensor]:
        """Logits of drafts behind so many tokens of `text`, by the reference alone."""
        features = parallel_eagle.target_features(self.target, text, self.model.base.feature_layers)

        def behind(
            committed: int, path: Sequence[int] = (), count: int | None = None
        ) -> torch.Tensor:
            known, steps = features[: committed - 1], len(path) if count is None else count
            return eagle3.draft_scores(self.model, self.w, text[:committed], known, steps, path)

        return behind


@pytest.fixture(scope="module", params=by_backend(cpu=list(VARIANTS), cuda=["reduced vocabulary"]))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("models")
    model = VARIANTS[request.param]
    target = write_tiny_llama(folder / "target", TARGET)
    w = learned(model, target, greedy_texts(target, PROMPTS[:3], 40))
    drafter = written(folder / "drafter", model, w)
    dtype = by_backend(cpu="f32", cuda="bf16")
    bundle = bundle_of(target, folder / "bundle", draft=drafter, dtype=dtype)
    return Trained(model, w, target, bundle)


def verdicts(out: RequestOutput) -> list[tuple[int, int]]:
    return [(r.drafted, r.accepted) for r in out.metrics.rounds]


def foretold(trained: Trained, text: list[int], committed: int) -> list[tuple[int, int]]:
    """Tokens drafted and accepted in every round of chains, by the reference alone."""
    scores = trained.scores(text)
    rounds = []
    while committed < len(text):
        drafted = accepted = min(LENGTH, len(text) - committed - 1)
        if drafted > 0:
            draft = scores(committed, count=drafted).argmax(-1).tolist()
            wrong = [a != b for a, b in zip(draft, text[committed:], strict=False)]
            accepted = int(np.argmax([*wrong, True]))
        rounds.append((drafted, accepted))
        committed += accepted + 1
    return rounds


@pytest.mark.parametrize("nodes", [0, 63])
def test_rounds_draft_what_the_reference_drafts(nodes: int, trained: Trained) -> None:
    llm = LLM(trained.bundle, "eagle", LENGTH, tree_nodes=nodes, threads=1)
    plain = LLM(trained.bundle, "autoregressive", threads=1)
    accepted, off_the_chain, tokens = 0, 0, by_backend(cpu=50, cuda=24)
    for seed, prompt in enumerate(by_backend(cpu=PROMPTS, cuda=PROMPTS[:2])):
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        [out], [expected] = (each.generate([prompt], params) for each in (llm, plain))
        assert out.token_ids == expected.token_ids
        text, committed = [*prompt, *expected.token_ids], len(prompt) + 1
        if by_backend(cpu=True, cuda=False):
            with one_thread(), torch.no_grad():
                if nodes == 0:
                    assert verdicts(out) == foretold(trained, text, committed)
                else:
                    rounds = tree_rounds(llm, prompt, tokens)
                    off_the_chain += check_ranks(rounds, text, committed, trained.scores(text))
        accepted += sum(r.accepted for r in out.metrics.rounds)
        sampled = SamplingParams(temperature=0.8, max_tokens=30, seed=seed)
        [out], [expected] = (each.generate([prompt], sampled) for each in (llm, plain))
        assert out.token_ids == expected.token_ids
    assert accepted > 0
    assert nodes == 0 or by_backend(cpu=off_the_chain, cuda=1) > 0


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

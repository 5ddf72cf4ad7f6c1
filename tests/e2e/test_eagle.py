"""EAGLE: the engine gives the reference's logits and drafts, and never other tokens."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from backends import by_backend
from bundles import bundle_of, tiny_model
from eagle_models import check_ranks, greedy_texts, one_thread, trained_eagle1, tree_rounds
from reference import eagle, parallel_eagle
from reference.eagle import TinyEagle1
from reference.tiny_llama import write_tiny_llama
from safetensors.torch import load_file
from specrt import LLM, RequestOutput, SamplingParams
from specrt._core import EngineRole

CONTEXT = 96
TARGET = tiny_model(context=CONTEXT)
MODEL = TinyEagle1(replace(TARGET, layers=1))
PROMPTS = [[10 + 7 * i, 50, 7 + i, 90, 33] for i in range(6)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    target = write_tiny_llama(folder / "target", TARGET)
    learned = trained_eagle1(MODEL, target, greedy_texts(target, PROMPTS, CONTEXT))
    eagle.write_folder(folder / "eagle", MODEL, learned)
    return folder


@pytest.fixture(scope="module")
def bundle(folders: Path) -> Path:
    dtype = by_backend(cpu="f32", cuda="bf16")
    return bundle_of(folders / "target", folders / "bundle", draft=folders / "eagle", dtype=dtype)


@pytest.fixture(scope="module")
def plain(bundle: Path) -> LLM:
    return LLM(bundle, "autoregressive", threads=1)


def head_of(target: Path) -> torch.Tensor:
    tensors = load_file(target / "model.safetensors")
    return tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]).float()


def logit_error(model: TinyEagle1, folder: Path, dtype: str, rows: int) -> float:
    """Of all pairs of a text, in parts of the range."""
    target = write_tiny_llama(folder / "target", TARGET)
    drafter = eagle.write_folder(folder / "eagle", model)
    bundle = bundle_of(target, folder / "bundle", draft=drafter, dtype=dtype)
    tokens = np.random.default_rng(rows).integers(6, TARGET.vocab, 50).tolist()
    actual = LLM(bundle, "eagle", 2, threads=2).core.logits(EngineRole.drafter, tokens, rows)
    states = parallel_eagle.target_outputs(target, tokens)[:-1]
    found = eagle.estimates(model, eagle.weights(model), torch.tensor(tokens[1:]), states)
    wanted = (found @ head_of(target).T).numpy()
    return float(np.abs(actual[1:] - wanted).max() / np.ptp(wanted))


@pytest.mark.cpu_only("CUDA engines hold bf16")
@pytest.mark.parametrize(
    ("layers", "bias", "rows"), [(1, True, 64), (1, False, 64), (2, True, 64), (1, True, 1)]
)
def test_f32_equals_the_reference(layers: int, bias: bool, rows: int, tmp_path: Path) -> None:
    model = TinyEagle1(replace(TARGET, layers=layers), bias)
    assert logit_error(model, tmp_path, "f32", rows) < 1e-5


def test_bf16_is_close_to_the_reference(tmp_path: Path) -> None:
    assert logit_error(MODEL, tmp_path, "bf16", 64) < by_backend(cpu=4e-2, cuda=8e-2)


def verdicts(out: RequestOutput) -> list[tuple[int, int]]:
    return [(r.drafted, r.accepted) for r in out.metrics.rounds]


def foretold(folders: Path, text: Sequence[int], committed: int, length: int) -> list[object]:
    """Tokens drafted and accepted in every round, by the reference alone."""
    w, head = load_file(folders / "eagle" / "model.safetensors"), head_of(folders / "target")
    states = parallel_eagle.target_outputs(folders / "target", text)
    rounds: list[object] = []
    while committed < len(text):
        drafted = accepted = min(length, len(text) - committed - 1)
        if drafted > 0:
            known = states[: committed - 1]
            scores = eagle.draft_scores(MODEL, w, text[:committed], known, head, drafted)
            draft = scores.argmax(-1).tolist()
            wrong = [a != b for a, b in zip(draft, text[committed:], strict=False)]
            accepted = int(np.argmax([*wrong, True]))
        rounds.append((drafted, accepted))
        committed += accepted + 1
    return rounds


@pytest.mark.cpu_only("CUDA engines hold bf16, whose drafts may differ")
@pytest.mark.parametrize("length", [1, 4])
def test_rounds_draft_what_the_reference_drafts(
    length: int, folders: Path, bundle: Path, plain: LLM
) -> None:
    params = SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)
    llm = LLM(bundle, "eagle", length, threads=1)
    accepted = 0
    for prompt in PROMPTS:
        [out] = llm.generate([prompt], params)
        text = [*prompt, *plain.generate([prompt], params)[0].token_ids]
        with one_thread(), torch.no_grad():
            rounds = foretold(folders, text, len(prompt) + 1, length)
        assert verdicts(out) == rounds
        accepted += sum(r.accepted for r in out.metrics.rounds)
    assert accepted > 0


@pytest.mark.cpu_only("CUDA engines hold bf16, whose drafts may differ")
@pytest.mark.parametrize("nodes", [12, 63])
def test_trees_have_what_the_reference_drafts_on_each_path(
    nodes: int, folders: Path, bundle: Path, plain: LLM
) -> None:
    params = SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)
    w, head = load_file(folders / "eagle" / "model.safetensors"), head_of(folders / "target")
    llm = LLM(bundle, "eagle", 5, tree_nodes=nodes, threads=1)
    off_the_chain = 0
    for prompt in PROMPTS:
        text = [*prompt, *plain.generate([prompt], params)[0].token_ids]
        states = parallel_eagle.target_outputs(folders / "target", text)

        def scores(
            committed: int,
            path: Sequence[int],
            text: list[int] = text,
            states: torch.Tensor = states,
        ) -> torch.Tensor:
            before, known = text[:committed], states[: committed - 1]
            return eagle.draft_scores(MODEL, w, before, known, head, len(path), path)

        with one_thread(), torch.no_grad():
            rounds = tree_rounds(llm, prompt, 50)
            off_the_chain += check_ranks(rounds, text, len(prompt) + 1, scores)
    assert off_the_chain > 5


@pytest.mark.parametrize("nodes", by_backend(cpu=[0, 1, 6, 40, 63], cuda=[0, 12]))
@pytest.mark.parametrize("length", by_backend(cpu=[1, 2, 5, 16], cuda=[4]))
def test_every_draft_length_and_tree(length: int, nodes: int, bundle: Path, plain: LLM) -> None:
    llm = LLM(bundle, "eagle", length, tree_nodes=nodes, threads=2)
    for seed in range(by_backend(cpu=6, cuda=2)):
        params = SamplingParams(
            temperature=0.3 * seed, max_tokens=by_backend(cpu=60, cuda=12), seed=seed
        )
        prompt = PROMPTS[0][: 1 + seed % 5]
        [out] = llm.generate([prompt], params)
        assert out.token_ids == plain.generate([prompt], params)[0].token_ids
        assert all(r.drafted <= (nodes or length) for r in out.metrics.rounds)
        assert all(r.accepted <= length for r in out.metrics.rounds)


@pytest.mark.parametrize("nodes", by_backend(cpu=[0, 30], cuda=[12]))
def test_the_end_of_the_context(nodes: int, bundle: Path, plain: LLM) -> None:
    llm = LLM(bundle, "eagle", 8, tree_nodes=nodes, threads=1)
    params = SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)
    for length in (CONTEXT - 1, CONTEXT - 3, CONTEXT - 8):
        prompt = (PROMPTS[0] * CONTEXT)[:length]
        [out] = llm.generate([prompt], params)
        assert out.token_ids == plain.generate([prompt], params)[0].token_ids
        assert len(out.token_ids) == CONTEXT - length


@pytest.mark.parametrize("nodes", [0, 12])
def test_a_reused_prefix_has_its_features(nodes: int, bundle: Path, plain: LLM) -> None:
    """Drafts behind a prefix of the text before are those behind a fresh prompt."""
    llm = LLM(bundle, "eagle", 4, tree_nodes=nodes, threads=1)
    fresh = LLM(bundle, "eagle", 4, tree_nodes=nodes, threads=1, enable_prefix_caching=False)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    text = PROMPTS[1]
    for turn in range(by_backend(cpu=4, cuda=2)):
        prompt = [*text, 40 + turn, 41]
        [out] = llm.generate([prompt], params)
        [wanted] = fresh.generate([prompt], params)
        assert (out.token_ids, verdicts(out)) == (wanted.token_ids, verdicts(wanted))
        assert out.token_ids == plain.generate([prompt], params)[0].token_ids
        text = prompt + out.token_ids


def test_a_folder_is_known_by_its_config_too(folders: Path, tmp_path: Path) -> None:
    drafter = eagle.write_folder(
        tmp_path / "eagle",
        MODEL,
        model_type="eagle",
        architectures=["EAGLEModel"],
        fc_bias=True,
    )
    bundle = bundle_of(folders / "target", tmp_path / "bundle", draft=drafter)
    assert (bundle / "drafters" / "eagle.engine").is_file()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 64}, "hidden_size of 64 and the target of 48; the drafter belongs to"),
        ({"vocab_size": 300}, "the drafter has 300 tokens and the target 277"),
        ({"gate": True}, "keys that specrt does not know: 'gate'"),
        ({"num_hidden_layers": 2}, "tensor 'layers.1.[a-z_.]+' is missing"),
    ],
)
def test_drafters_of_another_target_are_named(
    changes: dict[str, object], words: str, folders: Path, tmp_path: Path
) -> None:
    drafter = eagle.write_folder(tmp_path / "eagle", MODEL, **changes)
    with pytest.raises(ValueError, match=words):
        bundle_of(folders / "target", tmp_path / "bundle", draft=drafter)

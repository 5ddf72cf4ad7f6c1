"""PEARL with drafters that read hidden states of the target, which the tail does not have yet."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from backends import by_backend
from bundles import bundle_of, tiny_model
from eagle_models import greedy_texts, one_thread, trained_eagle1
from pearl_rounds import Draft, pearl_rounds
from reference import eagle, parallel_eagle, parallel_medusa
from reference.eagle import TinyEagle1
from reference.parallel_medusa import TinyParallelMedusa
from reference.tiny_llama import write_tiny_llama
from reference.tiny_medusa import TinyMedusa, write_tiny_medusa
from safetensors.torch import load_file, save_file
from specrt import LLM, SamplingParams
from torch import Tensor

CONTEXT, HEADS = 96, 5
TARGET = tiny_model(context=CONTEXT)
EAGLE = TinyEagle1(replace(TARGET, layers=1))
PARALLEL = TinyParallelMedusa(replace(TARGET, layers=1))
PROMPTS = [[10 + 7 * i, 50, 7 + i, 90, 33] for i in range(6)]
METHODS = ("pearl:eagle", "pearl:medusa", "pearl:parallel-medusa")


def head_of(target: Path) -> Tensor:
    tensors = load_file(target / "model.safetensors")
    return tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]).float()


def write_heads(folder: Path, target: Path, texts: Sequence[Sequence[int]]) -> None:
    """Heads that are right now and then: for each the best linear map of the states of `texts`."""
    write_tiny_medusa(folder, TinyMedusa(TARGET, heads=HEADS, told=HEADS))
    path = folder / "medusa_lm_head.safetensors"
    tensors = load_file(path)
    states = [parallel_eagle.target_outputs(target, text) for text in texts]
    for name, tensor in tensors.items():
        ahead = 2 + int(name.split(".")[0])
        known = torch.cat([state[:-ahead] for state in states])
        tokens = torch.cat([torch.tensor(text[ahead:]) for text in texts])
        wanted = torch.nn.functional.one_hot(tokens, TARGET.vocab).float()
        best = torch.linalg.lstsq(known, wanted).solution.T.contiguous()
        tensors[name] = torch.zeros_like(tensor) if ".linear." in name else best
    save_file(tensors, path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    target = write_tiny_llama(folder / "target", TARGET)
    texts = greedy_texts(target, PROMPTS, CONTEXT)
    learned = trained_eagle1(EAGLE, target, texts)
    eagle.write_folder(folder / "eagle", EAGLE, learned)
    parallel_medusa.write_folder(folder / "parallel", PARALLEL, target)
    write_heads(folder / "heads", target, texts)
    return folder


@pytest.fixture(scope="module")
def bundle(folders: Path) -> Path:
    drafts = [folders / name for name in ("eagle", "parallel", "heads")]
    dtype = by_backend(cpu="f32", cuda="bf16")
    return bundle_of(folders / "target", folders / "bundle", draft=drafts, dtype=dtype)


@pytest.fixture(scope="module")
def plain(bundle: Path) -> LLM:
    return LLM(bundle, "autoregressive", threads=1)


def eagle_draft(folders: Path, states: Tensor) -> Draft:
    """Each token behind the target's states, and behind those the estimates made when drafting."""
    w, head = load_file(folders / "eagle" / "model.safetensors"), head_of(folders / "target")
    estimates: dict[int, Tensor] = {}

    def draft(known: list[int], committed: int, count: int) -> list[int]:
        tokens = list(known)
        for _ in range(count):
            pairs = len(tokens) - 1
            rows = [states[p] if p < committed - 1 else estimates[p] for p in range(pairs)]
            found = eagle.estimates(EAGLE, w, torch.tensor(tokens[1:]), torch.stack(rows))
            estimates[pairs] = found[-1]
            tokens.append(int((head @ found[-1]).argmax()))
        return tokens[len(known) :]

    return draft


def medusa_draft(folders: Path, states: Tensor) -> Draft:
    """Head i drafts the token i behind the committed ones; there may be too few."""
    tensors = load_file(folders / "heads" / "medusa_lm_head.safetensors")
    matrices = [tensors[f"{i}.1.weight"].float() for i in range(HEADS)]

    def draft(known: list[int], committed: int, count: int) -> list[int]:
        state, first = states[committed - 2], len(known) - committed
        usable = matrices[first : first + count]
        return [int((matrix @ state).argmax()) for matrix in usable]

    return draft


def parallel_medusa_draft(folders: Path, states: Tensor) -> Draft:
    """Masks for the tail, too: there are no tokens among what it reads."""
    w, head = load_file(folders / "parallel" / "model.safetensors"), head_of(folders / "target")

    def draft(known: list[int], committed: int, count: int) -> list[int]:
        if count == 0:
            return []
        masked = len(known) - committed
        features = states[: committed - 1]
        scores = parallel_medusa.draft_logits(PARALLEL, w, features, head, masked + count)
        return scores[-count:].argmax(-1).tolist()

    return draft


REFERENCES = dict(zip(METHODS, (eagle_draft, medusa_draft, parallel_medusa_draft), strict=True))


@pytest.mark.cpu_only("CUDA engines hold bf16, whose drafts may differ")
@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_rounds_draft_what_the_references_draft(
    method: str, length: int, folders: Path, bundle: Path, plain: LLM
) -> None:
    params = SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)
    llm = LLM(bundle, method, length, threads=2)
    longest = 0
    for prompt in PROMPTS:
        [out] = llm.generate([prompt], params)
        text = [*prompt, *plain.generate([prompt], params)[0].token_ids]
        assert [*prompt, *out.token_ids] == text
        with one_thread(), torch.no_grad():
            states = parallel_eagle.target_outputs(folders / "target", text)
            draft = REFERENCES[method](folders, states)
            wanted = pearl_rounds(text, len(prompt) + 1, length, draft)
        assert [(r.drafted, r.accepted) for r in out.metrics.rounds] == wanted
        longest = max(longest, *(accepted for _, accepted in wanted))
    assert longest > (0 if length == 1 or method == "pearl:parallel-medusa" else 1)


@pytest.mark.parametrize("length", by_backend(cpu=[1, 2, 3, HEADS], cuda=[3]))
@pytest.mark.parametrize("method", METHODS)
def test_never_other_tokens(method: str, length: int, bundle: Path, plain: LLM) -> None:
    llm = LLM(bundle, method, length, threads=2)
    texts: Sequence[int] = []
    for seed in range(by_backend(cpu=6, cuda=1)):
        params = SamplingParams(
            temperature=0.3 * (seed % 4), max_tokens=by_backend(cpu=60, cuda=10), seed=seed
        )
        prompt = [*texts, *PROMPTS[seed][: 1 + seed % 5]][-30:]
        [out] = llm.generate([prompt], params)
        assert out.token_ids == plain.generate([prompt], params)[0].token_ids
        assert 0 < max(r.drafted for r in out.metrics.rounds) <= length
        texts = [*prompt, *out.token_ids]

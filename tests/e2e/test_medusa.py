"""Drafters over the target's last hidden state: same tokens with every length, tree and option."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from backends import by_backend
from bundles import bundle_of, tiny_model
from reference import parallel_medusa
from reference.parallel_medusa import TinyParallelMedusa
from reference.tiny_llama import write_tiny_llama
from reference.tiny_medusa import TinyMedusa, write_tiny_medusa
from safetensors.torch import load_file, save_file
from specrt import LLM, Error, SamplingParams

CONTEXT, HEADS = 96, 4
TARGET = tiny_model(context=CONTEXT)
PROMPTS = [[10 + 7 * i, 50, 7 + i, 90, 33] for i in range(6)]
METHODS = ("medusa", "parallel-medusa")


def write_heads(folder: Path, target: Path) -> Path:
    """Heads that are right now and then: the target's own output matrix for all of them."""
    write_tiny_medusa(folder, TinyMedusa(TARGET, heads=HEADS, told=HEADS))
    path = folder / "medusa_lm_head.safetensors"
    tensors = load_file(path)
    own = load_file(target / "model.safetensors")
    head = own.get("lm_head.weight", own["model.embed_tokens.weight"])
    for name in tensors:
        blocks = ".linear." in name
        tensors[name] = torch.zeros_like(tensors[name]) if blocks else head.clone()
    save_file(tensors, path)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    target = write_tiny_llama(folder / "target", TARGET)
    model = TinyParallelMedusa(replace(TARGET, layers=1))
    drafts = [
        write_heads(folder / "heads", target),
        parallel_medusa.write_folder(folder / "parallel", model, target),
    ]
    return bundle_of(target, folder / "bundle", draft=drafts, dtype="bf16")


@pytest.fixture(scope="module")
def plain(bundle: Path) -> LLM:
    return LLM(bundle, "autoregressive", threads=1)


def params(seed: int, tokens: int = 40) -> SamplingParams:
    return SamplingParams(
        temperature=0.3 * (seed % 4), max_tokens=by_backend(cpu=tokens, cuda=10), seed=seed
    )


@pytest.mark.parametrize("nodes", by_backend(cpu=[0, 1, 5, 20, 63], cuda=[0, 5]))
@pytest.mark.parametrize("length", by_backend(cpu=[1, 2, HEADS], cuda=[HEADS]))
@pytest.mark.parametrize("method", METHODS)
def test_every_length_and_tree(
    method: str, length: int, nodes: int, bundle: Path, plain: LLM
) -> None:
    llm = LLM(bundle, method, length, tree_nodes=nodes, threads=2)
    for seed in range(by_backend(cpu=4, cuda=1)):
        prompt = PROMPTS[seed][: 1 + seed % 5]
        [expected] = plain.generate([prompt], params(seed))
        [out] = llm.generate([prompt], params(seed))
        assert out.token_ids == expected.token_ids
        drafted = [r.drafted for r in out.metrics.rounds]
        assert 0 < max(drafted) <= (nodes or length)


def test_heads_are_right_now_and_then(bundle: Path, plain: LLM) -> None:
    """Trees have candidates that a chain has not."""
    accepted = {}
    for nodes in (0, 30):
        llm = LLM(bundle, "medusa", HEADS, tree_nodes=nodes, threads=1)
        rounds = [
            r
            for seed, prompt in enumerate(PROMPTS)
            for r in llm.generate([prompt], params(seed))[0].metrics.rounds
        ]
        accepted[nodes] = sum(r.accepted for r in rounds) / len(rounds)
    assert accepted[30] > accepted[0] >= 0


@pytest.mark.parametrize("method", METHODS)
def test_a_reused_prefix_and_costs(method: str, bundle: Path, plain: LLM) -> None:
    """Texts that go on, with lengths that follow costs where there are any."""
    llm = LLM(bundle, method, threads=1)
    text = PROMPTS[1]
    for turn in range(by_backend(cpu=4, cuda=2)):
        prompt = [*text, 40 + turn, 41]
        [out] = llm.generate([prompt], params(turn, 12))
        assert out.token_ids == plain.generate([prompt], params(turn, 12))[0].token_ids
        text = prompt + out.token_ids


@pytest.mark.parametrize("method", ["medusa", "pearl:medusa"])
def test_more_tokens_than_heads_are_refused(method: str, bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"num_speculative_tokens 5 is more than the 4 heads"):
        LLM(bundle, method, HEADS + 1)
    assert LLM(bundle, method).num_speculative_tokens == HEADS


def test_heads_of_another_target_are_named(tmp_path: Path) -> None:
    target = write_tiny_llama(tmp_path / "target", TARGET)
    other = tiny_model(context=CONTEXT, hidden=64)
    heads = write_tiny_medusa(tmp_path / "heads", TinyMedusa(other))
    with pytest.raises(ValueError, match=r"tensor '0.0.linear.weight' has shape \[64, 64\]"):
        bundle_of(target, tmp_path / "bundle", draft=heads)


def test_a_drafter_of_another_target_is_named(tmp_path: Path) -> None:
    target = write_tiny_llama(tmp_path / "target", TARGET)
    other = write_tiny_llama(tmp_path / "other", replace(TARGET, seed=2))
    model = TinyParallelMedusa(replace(TARGET, layers=1))
    drafter = parallel_medusa.write_folder(tmp_path / "drafter", model, other)
    with pytest.raises(ValueError, match="target_sha256 is not the hash of the weights"):
        bundle_of(target, tmp_path / "bundle", draft=drafter)


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    target = write_tiny_llama(tmp_path / "target", TARGET)
    model = TinyParallelMedusa(replace(TARGET, layers=1))
    drafter = parallel_medusa.write_folder(tmp_path / "drafter", model, target, gate=True)
    with pytest.raises(ValueError, match="keys that specrt does not know: gate"):
        bundle_of(target, tmp_path / "bundle", draft=drafter)


def test_a_manifest_without_heads_is_caught_at_the_first_draft(
    bundle: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    for entry in manifest["drafters"]:
        entry.pop("heads", None)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Error, match="a draft of 5 tokens with 4 heads"):
        LLM(copy, "medusa", HEADS + 1).generate([PROMPTS[0]], params(0))

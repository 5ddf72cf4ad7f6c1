"""Bad arguments raise ValueError that names argument and range; damaged bundles specrt.Error."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import specrt
from specrt import LLM, SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "warm"),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("min_p", 2),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("seed", -1),
        ("seed", 2**64),
        ("ignore_eos", 1),
        ("stop_token_ids", [-3]),
        ("stop_token_ids", "stop"),
    ],
)
def test_sampling_params(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        SamplingParams(**{field: value})  # type: ignore[arg-type]


def test_an_unknown_sampling_field_is_refused() -> None:
    with pytest.raises(TypeError, match="best_of"):
        SamplingParams(best_of=2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "telepathy"}, "method must be one of"),
        ({"num_speculative_tokens": 0}, r"num_speculative_tokens must be in \[1, 63\]"),
        ({"num_speculative_tokens": 64}, r"num_speculative_tokens must be in \[1, 63\]"),
        ({"num_speculative_tokens": 2.0}, "num_speculative_tokens must be an integer"),
        ({"method": "autoregressive", "num_speculative_tokens": 3}, "needs a method that drafts"),
        ({"threads": 0}, "threads"),
        ({"run_ahead": 9}, r"run_ahead must be in \[0, 8\]"),
        ({"isa": "mmx"}, "mmx"),
        ({"speculative_config": {"model": "x"}}, "speculative_config has model"),
        ({"speculative_config": {"method": 3}}, "must be a name"),
        ({"speculative_config": {"method": "eagle3"}}, "method must be one of"),
        ({"method": "speculative", "speculative_config": {}}, "not both"),
    ],
)
def test_llm_arguments(arguments: dict[str, object], message: str, demo_bundle: Path) -> None:
    with pytest.raises(ValueError, match=message):
        LLM(demo_bundle, **arguments)  # type: ignore[arg-type]


def test_speculative_config_in_vllms_words(demo_bundle: Path) -> None:
    llm = LLM(
        demo_bundle,
        speculative_config={"method": "draft_model", "num_speculative_tokens": 3},
        threads=1,
    )
    assert (llm.method, llm.num_speculative_tokens) == ("speculative", 3)


def test_prompts(demo_bundle: Path) -> None:
    llm = LLM(demo_bundle, threads=1)
    vocab = llm.core.vocab
    with pytest.raises(ValueError, match="the prompt is empty"):
        llm.generate([[]])
    with pytest.raises(ValueError, match=f"token {vocab} is outside of the vocabulary of {vocab}"):
        llm.generate([vocab])
    with pytest.raises(ValueError, match="the context of 2048 leaves room for 2047"):
        llm.generate([[5] * 2048])
    for token in (-1, 2**31, 2**70):
        with pytest.raises(ValueError, match=f"token {token} is outside of the vocabulary"):
            llm.generate([token])
    for prompt in ([1.5], None, [None], ["a"]):
        with pytest.raises(ValueError, match="a prompt must be a text or a sequence of token ids"):
            llm.generate([prompt])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="prompts mix token ids with prompts"):
        llm.generate(["a", 3])  # type: ignore[list-item]
    assert llm.generate(np.array([5, 6])) != []  # type: ignore[arg-type]
    assert llm.generate([]) == []
    many = SamplingParams(stop_token_ids=list(range(17)))
    with pytest.raises(ValueError, match="at most 16"):
        llm.generate("Hello", many)


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(specrt.Error, match="is not a specrt bundle"):
        LLM(tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
@pytest.mark.parametrize("name", ["target.engine", "drafters/draft.engine"])
def test_a_damaged_engine(damage: str, name: str, demo_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle, bundle)
    engine = bundle / name
    content = engine.read_bytes()
    if damage == "truncate":
        engine.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        engine.write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:])
    elif damage == "empty":
        engine.write_bytes(b"")
    else:
        engine.unlink()
    expected = ValueError if (damage, name) == ("remove", "drafters/draft.engine") else specrt.Error
    with pytest.raises(expected, match=r"draft|target"):
        LLM(bundle, method="speculative", threads=1)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a":' * 5000])
def test_a_damaged_manifest(text: str, demo_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle, bundle)
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(specrt.Error, match="manifest"):
        LLM(bundle)


def test_generating_imports_nothing_heavy(demo_bundle: Path) -> None:
    program = (
        "import sys, specrt\n"
        "specrt.LLM(sys.argv[1], threads=1).generate('Hello')\n"
        "heavy = {'torch', 'transformers', 'safetensors', 'huggingface_hub', 'jinja2', 'tqdm'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, str(demo_bundle)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout == "[]\n"

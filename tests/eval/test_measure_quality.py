"""tools/measure_quality.py: the table is that of the models' own answers; bad input is named."""

import json
from pathlib import Path

import measure_quality
import pytest
from bundles import bundle_of, tiny_model
from reference.tiny_llama import write_tiny_llama
from specrt import LLM, SamplingParams
from specrt.eval.prompts import encode_prompt

QUESTIONS = ("How many are there?", "Which one is it?")


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    return bundle_of(write_tiny_llama(folder / "model", tiny_model()), folder / "bundle")


@pytest.fixture
def data(tiny_bundle: Path, tmp_path: Path) -> Path:
    """One query of two whose reference is what the model answers, and a text without any."""
    llm = LLM(tiny_bundle, threads=1)
    params = SamplingParams(temperature=0, max_tokens=8)
    prompts = [encode_prompt(llm.tokenizer, question) for question in QUESTIONS]
    answers = [answer.text for answer in llm.generate(prompts, params)]
    references = (answers[0], answers[1] + " and more")
    rows = [
        {"prompt": question, "reference": reference}
        for question, reference in zip(QUESTIONS, references, strict=True)
    ]
    (tmp_path / "wikisql.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "open.jsonl").write_text(json.dumps({"prompt": "Tell me."}))
    return tmp_path


def measured(bundles: list[str], data: Path, task: str, *more: str) -> int:
    words = [*bundles, "--data", str(data), "--tasks", task, "--max-new-tokens", "8"]
    return measure_quality.main([*words, "--threads", "1", *more])


def test_answers_are_scored(
    tiny_bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = data / "table.md"
    models = [f"one={tiny_bundle}", f"same={tiny_bundle}"]
    assert measured(models, data, "wikisql", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "| task | measure | one | same |"
    assert printed.splitlines()[2] == "| wikisql (2) | exact match | 50.0 | 50.0 |"
    assert out.read_text() == printed


@pytest.mark.parametrize(
    ("bundle", "task", "text"),
    [
        ("one=missing", "wikisql", "missing is not a specrt bundle"),
        ("missing", "wikisql", "bundles are NAME=BUNDLE"),
        ("one={}", "spider", "has no spider.jsonl"),
        ("one={}", "open", "open: row 0 has no reference"),
    ],
)
def test_bad_arguments(
    bundle: str,
    task: str,
    text: str,
    tiny_bundle: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert measured([bundle.format(tiny_bundle)], data, task) == 2
    assert text in capsys.readouterr().err

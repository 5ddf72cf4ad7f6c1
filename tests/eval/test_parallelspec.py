"""The benchmark of drafters that fill masks, on a tiny bundle and a prompt of each task."""

import dataclasses
import json
from pathlib import Path

import bench_parallelspec
import pytest
from bench_samples import BASELINE, DRAFTED, LOOP, answer, run
from bundles import write_mask_drafter
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt import LLM
from specrt.build import build
from specrt.eval.draft_cost import DraftCost, draft_cost
from specrt.eval.parallelspec import ParallelSpecRun, parallelspec_markdown
from specrt.eval.task_prompts import TASKS, task_prompts


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    target = write_tiny_llama(folder / "target", TinyLlama())
    drafts = [target, write_mask_drafter(target, folder / "parallel")]
    return build(target, draft=drafts, out=folder / "bundle", progress=False, tune=False)


def test_writes_rows_table_and_picture(bundle: Path, data: Path, tmp_path: Path) -> None:
    words = [str(bundle), "--data", str(data), "--out", str(tmp_path / "out"), "--limit", "1"]
    words += ["--max-new-tokens", "12", "--repeats", "2", "--num-speculative-tokens", "3"]
    assert bench_parallelspec.main(words) == 0
    lines = (tmp_path / "out" / "parallelspec.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 2 * 4 * (len(TASKS) + 1)
    assert {row["options"]["temperature"] for row in rows} == {0.0, 1.0}
    assert {row["category"] for row in rows} == {*TASKS, "all"}
    assert all(row["identical_to_autoregressive"] for row in rows)
    pooled = {row["method"]: row for row in rows[:28] if row["category"] == "all"}
    assert pooled["speculative"]["mean_acceptance_length"] > 3  # the target drafts for itself
    assert pooled["parallel"]["accepted_at_position"][0] > 0.5  # right about the first token
    assert pooled["autoregressive"]["draft_cost"] is None
    assert pooled["parallel"]["draft_cost"]["lengths"] == [1, 2, 4, 8, 16]
    text = (tmp_path / "out" / "parallelspec.md").read_text()
    assert "## Temperature 1\n" in text
    assert "| gsm8k (1) | `pearl:parallel` |" in text
    assert (tmp_path / "out" / "parallelspec.png").read_bytes().startswith(b"\x89PNG")


def test_a_chain_costs_its_steps(bundle: Path) -> None:
    chain = draft_cost(LLM(bundle, "speculative", threads=1), (1, 4))
    assert chain is not None and chain.relative == (1.0, 4.0)
    at_once = draft_cost(LLM(bundle, "parallel", threads=1), (1, 4))
    assert at_once is not None and at_once.relative[0] == 1.0
    assert 0.0 < at_once.relative[1] < 4.0  # one step of four rows, not four steps
    assert draft_cost(LLM(bundle, "autoregressive", threads=1)) is None


def test_other_tokens_are_named() -> None:
    good = DRAFTED.samples[1]
    wrong = dataclasses.replace(good, repeats=((answer((*LOOP[:-1], 6), 8.0, good.rounds),),))
    changed = dataclasses.replace(DRAFTED, samples=(DRAFTED.samples[0], wrong))
    result = ParallelSpecRun(
        {0.0: run(BASELINE, DRAFTED), 1.0: run(BASELINE, changed)},
        {"speculative": DraftCost((1, 2), (0.5, 1.0), 2.0)},
    )
    assert result.differing == ["speculative, c, temperature 1", "speculative, all, temperature 1"]
    text = parallelspec_markdown(result, "here")
    assert "| all (2) | `speculative` | 2500 | 2.50x | 3.64 | NO |" in text
    assert "| `speculative` | 1.00 | 0.82 | 0.82 |" in text
    assert "| `speculative` | 1.00 | 2.00 | 0.25 |" in text


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--methods", "parallel,speculative"), "a plot needs autoregressive"),
        (("--data", "."), "has no gsm8k.jsonl or gsm8k.jsonl.gz"),
        (("--methods", "autoregressive,hydra"), "method must be one of"),
    ],
)
def test_bad_arguments(
    more: tuple[str, ...],
    text: str,
    bundle: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(bundle), "--data", str(data), "--out", str(tmp_path), *more]
    assert bench_parallelspec.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench_parallelspec: error: ")
    assert text in error
    assert not list(tmp_path.iterdir())


def test_tasks_are_categories(data: Path) -> None:
    prompts = task_prompts(data, 2, ("mbpp", "gsm8k"))
    assert [prompt.category for prompt in prompts] == ["mbpp", "mbpp", "gsm8k", "gsm8k"]
    assert [prompt.text for prompt in prompts[1:3]] == ["words of mbpp", "words of gsm8k"]

"""The benchmark of all drafters, on a tiny bundle and a prompt of each task."""

import dataclasses
import json
import shutil
from pathlib import Path

import bench_parallelspec
import pytest
from bench_samples import BASELINE, DRAFTED, LOOP, answer, run
from bundles import tiny_eagle, write_mask_drafter
from reference import eagle, parallel_medusa
from reference.eagle import TinyEagle1
from reference.parallel_medusa import TinyParallelMedusa
from reference.tiny_eagle import write_tiny_eagle
from reference.tiny_llama import TinyLlama, write_tiny_llama
from reference.tiny_medusa import TinyMedusa, write_tiny_medusa
from specrt import LLM
from specrt.build import build
from specrt.bundle import open_bundle
from specrt.eval.bench import MethodRun
from specrt.eval.draft_cost import DraftCost, draft_cost
from specrt.eval.parallel_fits import fit_of, methods_of, with_chains
from specrt.eval.parallelspec import ParallelSpecRun, parallelspec_markdown
from specrt.eval.report import bench_rows
from specrt.eval.task_prompts import TASKS, task_prompts

HEADS = 3
METHODS = (
    *("autoregressive", "speculative", "parallel", "medusa", "parallel-medusa"),
    *("eagle", "parallel-eagle"),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base, one_layer = TinyLlama(), TinyLlama(layers=1)
    target = write_tiny_llama(folder / "target", base)
    drafts = [
        target,
        write_mask_drafter(target, folder / "parallel"),
        write_tiny_medusa(folder / "medusa", TinyMedusa(base, heads=HEADS)),
        parallel_medusa.write_folder(folder / "pm", TinyParallelMedusa(one_layer), target),
        eagle.write_folder(folder / "eagle", TinyEagle1(one_layer)),
        write_tiny_eagle(folder / "peagle", tiny_eagle(base)),
    ]
    return build(target, draft=drafts, out=folder / "bundle", progress=False, tune=False)


def test_writes_rows_table_and_picture(bundle: Path, data: Path, tmp_path: Path) -> None:
    words = [str(bundle), "--data", str(data), "--out", str(tmp_path / "out"), "--limit", "1"]
    words += ["--max-new-tokens", "12", "--repeats", "2", "--num-speculative-tokens", "3"]
    assert bench_parallelspec.main(words) == 0
    lines = (tmp_path / "out" / "parallelspec.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 2 * len(METHODS) * (len(TASKS) + 1)
    assert tuple(row["method"] for row in rows[: len(METHODS)]) == METHODS
    assert {row["options"]["temperature"] for row in rows} == {0.0, 1.0}
    assert {row["category"] for row in rows} == {*TASKS, "all"}
    assert all(row["identical_to_autoregressive"] for row in rows)
    greedy = rows[: len(rows) // 2]
    pooled = {row["method"]: row for row in greedy if row["category"] == "all"}
    assert pooled["speculative"]["mean_acceptance_length"] > 3  # the target drafts for itself
    assert pooled["parallel"]["accepted_at_position"][0] > 0.5  # right about the first token
    assert pooled["autoregressive"]["draft_cost"] is None
    assert pooled["parallel"]["draft_cost"]["lengths"] == [1, 2, 4, 8, 16]
    assert pooled["medusa"]["draft_cost"]["lengths"] == [1, 2]  # no more than heads
    speeds = (pooled["parallel"]["tokens_per_second"], pooled["speculative"]["tokens_per_second"])
    assert pooled["parallel"]["base"] == "speculative"
    assert pooled["parallel"]["speedup_vs_base"] == pytest.approx(speeds[0] / speeds[1])
    assert pooled["medusa"]["base"] is pooled["medusa"]["speedup_vs_base"] is None
    text = (tmp_path / "out" / "parallelspec.md").read_text()
    assert "## Temperature 1\n" in text
    assert "| gsm8k (1) | `eagle` | - |" in text
    assert "| 1 | `parallel-eagle` | `eagle` | none |" in text
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
        target_bytes=10**6,
    )
    assert result.differing == ["speculative, c, temperature 1", "speculative, all, temperature 1"]
    text = parallelspec_markdown(result, "here")
    assert "| all (2) | `speculative` | - | 2500 | 2.50x | 3.64 | NO |" in text
    assert "| `speculative` | 1.00 | 0.82 | 0.82 |" in text
    assert "| `speculative` | 1.00 | 2.00 | 0.25 |" in text
    assert "Parallel fits" not in text


def method(name: str, nodes: int) -> MethodRun:
    return dataclasses.replace(DRAFTED, method=name, tree_nodes=nodes)


def test_fits_are_compared_on_equal_terms() -> None:
    found = run(
        BASELINE,
        method("speculative", 0),
        method("parallel", 63),
        method("parallel@nodes=0", 0),
        method("medusa", 63),
        method("parallel-medusa@nodes=0", 0),
        method("parallel-eagle", 63),
    )
    rows = bench_rows(found)
    fits = {row.method: fit_of(row, rows) for row in rows if row.category == "all"}
    told = {name: (fit.base.method, fit.trees) for name, fit in fits.items() if fit is not None}
    assert told == {
        "parallel": ("speculative", "the fit"),
        "parallel@nodes=0": ("speculative", "none"),
    }
    costs = {
        "speculative": DraftCost((1, 4), (0.5, 2.0), 2.0),
        "parallel": DraftCost((1, 4), (0.5, 0.8), 2.0),
    }
    text = parallelspec_markdown(ParallelSpecRun({0.0: found}, costs, 10**6), "here")
    line = "| 0 | `parallel@nodes=0` | `speculative` | none | 1.00x | 3.64 | 3.64 | 0.40 | 1.00 |"
    assert line in text
    assert "the engine of this target has 1.0 MB" in text


def test_what_a_bundle_can_run(bundle: Path, tmp_path: Path) -> None:
    assert methods_of(open_bundle(bundle)) == METHODS
    fewer = Path(shutil.copytree(bundle, tmp_path / "fewer"))
    (fewer / "drafters" / "medusa.engine").unlink()
    (fewer / "drafters" / "draft.engine").unlink()
    assert methods_of(open_bundle(fewer)) == (
        *("autoregressive", "parallel", "parallel-medusa", "eagle", "parallel-eagle"),
    )


def test_chains_beside_trees() -> None:
    methods = ("autoregressive", "speculative", "parallel", "medusa", "medusa@nodes=0")
    assert with_chains(methods) == (*methods, "parallel@nodes=0")


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

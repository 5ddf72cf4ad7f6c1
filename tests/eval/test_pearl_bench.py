"""The benchmark of PEARL, on a tiny bundle and a prompt of each task."""

import dataclasses
import json
from pathlib import Path

import bench_pearl
import pytest
from bench_samples import BASELINE, DRAFTED, LOOP, answer, run
from bundles import bundle_of, tiny_model
from reference.tiny_llama import write_tiny_llama
from specrt.eval.bench import BenchOptions
from specrt.eval.pearl import METHODS, PearlRun, differing, pearl_markdown
from specrt.eval.task_prompts import TASKS
from specrt.methods import Pace


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One target with two drafts: itself, and a smaller one."""
    folder = tmp_path_factory.mktemp("models")
    target = write_tiny_llama(folder / "target", tiny_model(context=64))
    small = write_tiny_llama(folder / "small", tiny_model(context=64, layers=1, seed=2))
    return [
        str(bundle_of(target, folder / "same", draft=target)),
        str(bundle_of(target, folder / "smaller", draft=small)),
    ]


def test_writes_rows_table_and_picture(bundles: list[str], data: Path, tmp_path: Path) -> None:
    words = [*bundles, "--data", str(data), "--out", str(tmp_path / "out"), "--limit", "1"]
    words += ["--max-new-tokens", "12", "--repeats", "1", "--threads", "2"]
    assert bench_pearl.main([*words, "--pace", "t_target=1,t_draft=0.25"]) == 0
    lines = (tmp_path / "out" / "pearl.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 2 * 2 * len(METHODS) * (len(TASKS) + 1)
    assert {(row["bundle"], row["paced"]) for row in rows} == {
        (name, paced) for name in ("same", "smaller") for paced in (False, True)
    }
    assert all(row["identical_to_autoregressive"] for row in rows)
    paced = {
        row["method"]: row
        for row in rows
        if row["paced"] and (row["bundle"], row["category"]) == ("same", "all")
    }
    assert paced["pearl"]["ratio"] == 4.0
    assert paced["pearl"]["options"]["pace"] == [1.0, 0.25]
    assert {row["num_speculative_tokens"] for row in paced.values()} == {0, 4}
    # The target drafts for itself: 11 tokens of decoding, in rounds of 1, 4, 4, 2; 1, 4, 1, 4, 1
    # without post-verify; 0, 5, 4, 2 without pre-verify.
    steps = {method: 11 / row["mean_acceptance_length"] for method, row in paced.items()}
    assert steps["pearl"] == pytest.approx(4, rel=1e-3)
    assert steps["pearl@pre_verify_only"] == pytest.approx(5, rel=1e-3)
    assert steps["pearl@post_verify_only"] == pytest.approx(4, rel=1e-3)
    assert paced["speculative"]["speedup_vs_speculative"] == 1.0
    text = (tmp_path / "out" / "pearl.md").read_text()
    assert "## smaller, PACED: target steps 1 ms, draft steps 0.25 ms, c = 4\n" in text
    assert "| gsm8k (1) | `pearl@pre_verify_only` | PACED, c = 4 | 4 |" in text
    assert "| gsm8k (1) | `autoregressive` | real, c = " in text
    assert (tmp_path / "out" / "pearl.png").read_bytes().startswith(b"\x89PNG")


def test_other_tokens_are_named_and_paces_labelled() -> None:
    good = DRAFTED.samples[1]
    wrong = dataclasses.replace(good, repeats=((answer((*LOOP[:-1], 6), 8.0, good.rounds),),))
    changed = dataclasses.replace(DRAFTED, samples=(DRAFTED.samples[0], wrong))
    options = BenchOptions(pace=Pace(10.0, 2.0))
    paced = dataclasses.replace(run(BASELINE, changed), options=options)
    runs = [PearlRun("b", 3.0, run(BASELINE, DRAFTED)), PearlRun("b", 5.0, paced)]
    assert differing(runs) == [
        "b, PACED, c = 5: speculative, c",
        "b, PACED, c = 5: speculative, all",
    ]
    text = pearl_markdown(runs, "here")
    row = "| all (2) | `speculative` | real, c = 3 | 3 | 2500 | 2.50x | 1.00x | 3.64 |"
    assert row in text
    assert "| b | PACED, c = 5 | 2.50x | - |" in text


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--methods", "pearl,speculative"), "a plot needs autoregressive"),
        (("--methods", "pearl,pearl"), "methods must be different names"),
        (("--methods", "autoregressive,pearl@all"), "behind @ may stand both, pre_verify_only"),
        (("--methods", "autoregressive,speculative@pre_verify_only"), 'belong to "pearl" methods'),
        (("--data", "."), "has no gsm8k.jsonl or gsm8k.jsonl.gz"),
        (("--paced-only",), "--paced-only needs --pace"),
    ],
)
def test_bad_arguments(
    more: tuple[str, ...],
    text: str,
    bundles: list[str],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [bundles[0], "--data", str(data), "--out", str(tmp_path), *more]
    assert bench_pearl.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench_pearl: error: ")
    assert text in error
    assert not list(tmp_path.iterdir())


def test_bundles_of_one_name_are_refused(
    bundles: list[str], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_pearl.main([bundles[0], bundles[0], "--data", str(data)]) == 2
    assert "bundles must have different names, not same, same" in capsys.readouterr().err

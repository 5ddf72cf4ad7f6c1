"""specrt inspect --predict: what the stored curves predict, beside what was measured."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from specrt import LLM
from specrt.cli.main import main
from specrt.eval.acceptance import AcceptanceCounts
from specrt.eval.cost_model import SEPARATE_DEVICES, SHARED_BUS, best_pearl, best_speculative, pearl
from specrt.eval.machine import place_of
from specrt.eval.step_costs import step_costs

STEP_MS = {"target": {"1": 4.0, "64": 5.0}, "draft": {"1": 1.0, "64": 1.5}}
RATES = {"autoregressive": 200.0, "speculative": 400.0, "ngram": 1.0}
COUNTS = AcceptanceCounts((100, 80), (80, 72))
NONE_MEASURED = (None, None)

pytestmark = pytest.mark.cpu_only("the machine of a GPU's curves is not looked at")


def tuned(source: Path, place: Path, **curves: Any) -> Path:
    """A copy of a bundle whose curves are as if measured here with one thread."""
    copy = Path(shutil.copytree(source, place))
    manifest = json.loads((copy / "manifest.json").read_text())
    here = place_of(LLM(copy, "autoregressive", threads=1).core.backend, 1)
    measured = {"tokens_per_second": RATES, "acceptance": asdict(COUNTS)}
    manifest["curves"] = {**asdict(here), "step_ms": STEP_MS, **measured, **curves}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def inspected(capsys: pytest.CaptureFixture[str], bundle: Path, *words: str) -> str:
    capsys.readouterr()
    assert main(["inspect", str(bundle), "--predict", "--threads", "1", *words]) == 0
    return capsys.readouterr().out


def predicted(capsys: pytest.CaptureFixture[str], bundle: Path, *words: str) -> Any:
    return json.loads(inspected(capsys, bundle, "--json", *words))["prediction"]


def test_every_loop_is_predicted_from_what_tuning_stored(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tuned(tiny_bundle, tmp_path / "bundle")
    plain, *rows = predicted(capsys, bundle)
    assert (plain["method"], plain["tokens_per_second"]) == ("autoregressive", 250.0)
    assert (plain["measured_tokens_per_second"], plain["measured_speedup"]) == (200.0, 1.0)
    costs, acceptance = step_costs({"step_ms": STEP_MS}), COUNTS.by_position()
    assert costs is not None
    expected = [
        ("speculative", best_speculative(costs, acceptance), (400.0, 2.0)),
        ("pearl", best_pearl(costs, acceptance, SEPARATE_DEVICES), NONE_MEASURED),
        ("pearl", pearl(costs, acceptance, 4, SEPARATE_DEVICES), NONE_MEASURED),
        ("pearl", best_pearl(costs, acceptance, SHARED_BUS), NONE_MEASURED),
        ("pearl", pearl(costs, acceptance, 4, SHARED_BUS), NONE_MEASURED),
    ]
    assert len(rows) == len(expected)
    for row, (method, prediction, measured) in zip(rows, expected, strict=True):
        assert row["method"] == method
        assert row["draft_length"] == prediction.draft_length
        assert row["tokens_per_second"] == prediction.tokens_per_second
        assert (row["measured_tokens_per_second"], row["measured_speedup"]) == measured


def test_the_table_says_how_far_off_the_prediction_is(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = inspected(capsys, tuned(tiny_bundle, tmp_path / "bundle"))
    assert re.search(r"autoregressive +- +1\.00 +250 +200 +\+25 % +1\.00x +1\.00x +\+0 %", text)
    assert "acceptance 0.84 over 180 tokens\n" in text
    assert "after 0, 1, ... accepted in a row: 0.80 0.90\n" in text
    assert re.search(r"speculative +best draft length +\d+ .* 400 +[+-]\d+ % .* 2\.00x", text)
    assert len(re.findall(r"^  pearl +(?:separate devices|shared bus), .* - +-", text, re.M)) == 4


def test_pearl_is_compared_with_a_measurement_of_this_machine_only(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {**RATES, "pearl": 300.0}
    rows = predicted(capsys, tuned(tiny_bundle, tmp_path / "bundle", tokens_per_second=rates))
    found = [(r["setting"], r["measured_speedup"]) for r in rows if r["method"] == "pearl"]
    assert found == [
        ("separate devices, best gamma", None),
        ("separate devices, default gamma", None),
        ("shared bus, best gamma", 1.5),
        ("shared bus, default gamma", 1.5),
    ]


def test_a_bandwidth_lets_steps_overlap_on_the_bus(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tuned(tiny_bundle, tmp_path / "bundle")
    taking_turns, plenty = predicted(capsys, bundle), predicted(capsys, bundle, "--bandwidth", "9")
    assert plenty[:4] == taking_turns[:4]
    assert plenty[4]["tokens_per_second"] > taking_turns[4]["tokens_per_second"]
    # The tiny models need next to nothing of 9 GB/s, so that the bus never binds.
    assert plenty[5]["tokens_per_second"] == plenty[3]["tokens_per_second"]
    for wrong in ("0", "-1", "nan", "inf", "x"):
        with pytest.raises(SystemExit) as caught:
            main(["inspect", str(bundle), "--bandwidth", wrong])
        assert caught.value.code == 2


def test_curves_of_another_machine_or_number_of_threads_predict_nothing(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        "machine": ({"machine": "Another"}, "on Another (here: "),
        "threads": ({"threads": 7}, "with threads 7 (here: 1)"),
    }
    for name, (curves, words) in cases.items():
        bundle = tuned(tiny_bundle, tmp_path / name, **curves)
        text = inspected(capsys, bundle)
        [line] = [line for line in text.splitlines() if line.startswith("prediction")]
        assert words in line
        assert "specrt tune" in line
        assert predicted(capsys, bundle) is None
    text = inspected(capsys, tiny_bundle)
    assert "prediction  none: step times are not measured; measure with: specrt tune" in text


def test_without_measured_acceptance_only_autoregressive_is_predicted(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tuned(tiny_bundle, tmp_path / "bundle", acceptance={})
    assert [row["method"] for row in predicted(capsys, bundle)] == ["autoregressive"]
    assert "Acceptance was not measured; do it with: specrt tune" in inspected(capsys, bundle)

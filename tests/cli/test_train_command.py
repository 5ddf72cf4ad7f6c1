"""The command line of `specrt train`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from specrt.cli import train
from specrt.cli.main import main

DEMO = Path(__file__).parents[2] / "python" / "specrt" / "demo"


def run(kind: str, *more: str | Path) -> int:
    draft = ["--draft", str(DEMO / "draft")]
    return main(["train", kind, str(DEMO / "target"), *draft, *map(str, more)])


def test_trains_a_drafter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "What is 2 + 3?", "response": "2 + 3 = 5"}\n' * 10)
    small = ("--steps", "1", "--batch-tokens", "64", "--precision", "f32")
    assert run("parallel", "--data", rows, "-o", tmp_path / "out", "--depths", "2", *small) == 0
    assert "mean length" in capsys.readouterr().out
    assert '"pard_token": 8192' in (tmp_path / "out" / "config.json").read_text()


def test_trains_a_drafter_on_hidden_states(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "What is 2 + 3?", "response": "2 + 3 = 5"}\n' * 10)
    words = ["train", "parallel-eagle", str(DEMO / "target"), "--data", str(rows)]
    words += ["--steps", "1", "--batch-tokens", "64", "--depths", "2", "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--target-layers", "1,x,3"])
    assert "must be numbers like 2,4,5, not '1,x,3'" in capsys.readouterr().err
    assert main(words) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["eagle_aux_hidden_state_layer_ids"] == [2, 4, 5]
    assert config["mask_token_id"] == 6


@pytest.mark.parametrize(
    ("kind", "more", "told"),
    [
        ("medusa", ("--heads", "2"), {"model_type": "medusa", "medusa_num_heads": 2}),
        ("parallel-medusa", ("--depths", "2"), {"model_type": "parallel_medusa", "depths": 2}),
        ("eagle", ("--score-weight", "0.2"), {"model_type": "eagle", "fc_bias": True}),
    ],
)
def test_trains_drafters_on_last_states(
    kind: str,
    more: tuple[str, ...],
    told: dict[str, object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "What is 2 + 3?", "response": "2 + 3 = 5"}\n' * 10)
    words = ["train", kind, str(DEMO / "target"), "--data", str(rows), *more]
    assert main([*words, "--steps", "1", "--batch-tokens", "64", "-o", str(tmp_path / "out")]) == 0
    assert "mean length" in capsys.readouterr().out
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {key: config[key] for key in told} == told
    options = json.loads((tmp_path / "out" / "training.json").read_text())["options"]
    rate = {"medusa": 1e-3}.get(kind, 1e-4)
    assert (options["learning_rate"], options["loss"]) == (rate, "kl")


def test_trains_streams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "What is 2 + 3?", "response": "2 + 3 = 5"}\n' * 10)
    words = ["train", "streaming", str(DEMO / "target"), "--data", str(rows)]
    words += ["--steps", "1", "--batch-tokens", "64", "--streams", "2", "-o", str(tmp_path / "out")]
    assert main([*words, "--lora-modules", "o,gate"]) == 2
    assert "the LoRA modules are some of qkv, o, down" in capsys.readouterr().err
    assert main([*words, "--mode", "shared"]) == 0
    assert "mean length" in capsys.readouterr().out
    config = json.loads((tmp_path / "out" / "streaming" / "config.json").read_text())
    assert (config["streams"], config["stream_layers"], config["lora_modules"]) == (2, 4, [])
    options = json.loads((tmp_path / "out" / "training.json").read_text())["options"]
    assert (options["mode"], options["loss"]) == ("shared", "ce")


def test_parser_does_not_load_torch() -> None:
    code = (
        "import sys; from specrt.cli.main import make_parser; make_parser();"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "_NEEDED", ("torch", "a_package_that_is_not_there"))
    assert run("draft", "--data", tmp_path, "-o", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "training needs a_package_that_is_not_there" in error
    assert "pip install 'specrt[train]'" in error


@pytest.mark.parametrize(
    ("kind", "more", "text"),
    [
        ("parallel", ("--depths", "1"), "for one, use: train draft"),
        ("parallel", ("--cod-ratio", "2"), "ratio must be in (0, 1]"),
        ("parallel-medusa", ("--depths", "1"), "for one, use: train draft"),
        ("eagle", ("--score-weight", "0"), "the score weight (0.0) must be positive"),
        ("medusa", ("--depth-decay", "2"), "depth_decay must be in (0, 1], not 2.0"),
        ("draft", ("--loss", "huber"), "unknown loss 'huber'"),
        ("draft", (), "cannot read training rows from nowhere.jsonl"),
    ],
)
def test_bad_arguments(
    kind: str,
    more: tuple[str, ...],
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(kind, "--data", "nowhere.jsonl", "-o", tmp_path / "out", *more) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("specrt: error: ")
    assert text in error


@pytest.mark.parametrize("size", ["-1", "inf", "nan"])
def test_a_feature_cache_has_a_size(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "eagle", str(DEMO / "target"), "--data", "rows.jsonl", "-o", "out"]
    with pytest.raises(SystemExit, match="2"):
        main([*words, f"--feature-cache={size}"])
    assert f"must be a size of at least 0 GB, not {size}" in capsys.readouterr().err

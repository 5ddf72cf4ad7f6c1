"""The benchmark of Speculative Streaming, on tiny bundles and a prompt of each task."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import bench_streaming
import pytest
from bench_samples import BASELINE, DRAFTED, LOOP, answer, run
from reference.tiny_llama import TinyLlama, write_tiny_llama
from reference.tiny_streaming import TinyStreaming, write_tiny_streaming
from specrt.build import build
from specrt.eval.streaming import TASKS, StreamingRun, default_ablations
from specrt.eval.variants import parse_variant

MODEL = TinyStreaming(TinyLlama(), streams=3, scale=0.02)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    target = write_tiny_llama(folder / "target", MODEL.target)
    adapters = {"two": MODEL, "one": replace(MODEL, layers=1)}
    return {
        name: build(
            target,
            draft=write_tiny_streaming(folder / name, shape, target),
            out=folder / f"bundle-{name}",
            progress=False,
            tune=False,
        )
        for name, shape in adapters.items()
    }


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    row = json.dumps({"id": "1", "category": "c", "prompt": "a b c d e f"}).encode() + b"\n"
    for task in TASKS:
        if task == "spider":
            (folder / f"{task}.jsonl.gz").write_bytes(gzip.compress(row))
        else:
            (folder / f"{task}.jsonl").write_bytes(row)
    return folder


def test_writes_rows_table_and_picture(
    bundles: dict[str, Path], prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [str(bundles["two"]), "--data", str(prompts), "--out", str(out), "--limit", "1"]
    words += ["--max-new-tokens", "10", "--repeats", "2", "--also", f"one={bundles['one']}"]
    words += ["--methods", "autoregressive,streaming"]
    words += ["--ablations", "streaming@tokens=1,streaming@tokens=2+nodes=6+kept=3"]
    assert bench_streaming.main(words) == 0
    rows = [json.loads(line) for line in (out / "streaming.jsonl").read_text().splitlines()]
    groups = len(TASKS) + 1
    assert len(rows) == groups * (2 + 2 + 3 + 2)
    assert {row["part"] for row in rows} == {
        "temperature 0",
        "temperature 1",
        "ablations",
        "bundle one",
    }
    assert all(row["identical_to_autoregressive"] for row in rows)
    lengths = {row["method"]: row["num_speculative_tokens"] for row in rows}
    assert lengths["streaming@tokens=1"] == 1
    assert lengths["streaming@tokens=2+nodes=6+kept=3"] == 2
    text = (out / "streaming.md").read_text()
    assert "| this one | 3 | 2 |" in text
    assert "| one | 3 | 1 |" in text
    assert "| `streaming@tokens=2+nodes=6+kept=3` |" in text
    assert (out / "streaming.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("streams", [1, 3, 6])
def test_settings_follow_the_streams(streams: int) -> None:
    settings = default_ablations(streams)
    assert len(settings) == len(set(settings)) == streams + 5
    assert settings[streams - 1] == f"streaming@tokens={streams}+nodes=0"
    assert settings[-1] == f"streaming@tokens={streams}+nodes=15+kept=8"


def test_other_tokens_are_named() -> None:
    good = DRAFTED.samples[1]
    wrong = replace(good, repeats=((answer((*LOOP[:-1], 6), 8.0, good.rounds),),))
    changed = replace(DRAFTED, samples=(DRAFTED.samples[0], wrong))
    result = StreamingRun({0.0: run(BASELINE, DRAFTED)}, run(BASELINE, changed))
    assert result.differing == ["speculative, c, ablations", "speculative, all, ablations"]


def test_settings_behind_a_method() -> None:
    assert parse_variant("streaming") == ("streaming", {})
    assert parse_variant("pearl@pre_verify_only") == ("pearl", {"phases": "pre_verify_only"})
    assert parse_variant("streaming@tokens=2+nodes=8+kept=4") == (
        "streaming",
        {"num_speculative_tokens": 2, "tree_nodes": 8, "kept_nodes": 4},
    )
    for name in ("streaming@tokens", "streaming@tokens=-1", "pearl@first", "streaming@k=2"):
        with pytest.raises(ValueError, match="behind @ may stand"):
            parse_variant(name)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--methods", "streaming,ngram"), "a plot needs autoregressive"),
        (("--data", "."), "has no dialogsum.jsonl"),
        (("--also", "two"), "bundles are NAME=BUNDLE"),
        (("--ablations", "streaming@tokens=4"), "more than the 3 streams"),
    ],
)
def test_bad_arguments(
    more: tuple[str, str],
    text: str,
    bundles: dict[str, Path],
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(bundles["two"]), "--data", str(prompts), "--out", str(tmp_path), "--limit", "1"]
    words += ["--methods", "autoregressive,streaming", "--temperatures", "0", "--repeats", "1"]
    assert bench_streaming.main([*words, "--max-new-tokens", "4", *more]) == 2
    assert text in capsys.readouterr().err

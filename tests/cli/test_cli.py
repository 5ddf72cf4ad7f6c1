"""The command line: help, errors, and what every command prints."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from specrt.bundle import open_bundle
from specrt.cli.main import main

COMMANDS = ("demo", "build", "generate", "chat", "bench", "inspect", "tune")
PROMPT = "Hello"


def output_of(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """Standard output of a command that succeeds."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 0
    return capsys.readouterr().out


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"id": "1", "category": "a", "prompt": "One?"},
        {"id": "2", "category": "b", "turns": ["Two?", "Three?"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_has_an_example(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert re.search(r"^examples?:\n +(echo .*\| )?" + " ".join(["specrt", *command]), text, re.M)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"specrt \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


WRONG = [
    (2, "COMMAND", []),
    (2, "invalid choice", ["frobnicate"]),
    (2, "BUNDLE", ["generate"]),
    (2, "--max-tokens", ["generate", "{bundle}", PROMPT, "--max-tokens", "0"]),
    (2, "top_p", ["generate", "{bundle}", PROMPT, "--top-p", "0"]),
    (2, "temperature", ["generate", "{bundle}", PROMPT, "--temperature", "nan"]),
    (2, "hydra", ["generate", "{bundle}", PROMPT, "--method", "hydra"]),
    (2, "63", ["generate", "{bundle}", PROMPT, "--num-speculative-tokens", "64"]),
    (2, "missing.jsonl", ["generate", "{bundle}", "--prompts", "missing.jsonl"]),
    (2, "not both", ["generate", "{bundle}", PROMPT, "--prompts", "missing.jsonl"]),
    (2, "--json", ["generate", "{bundle}", PROMPT, "--stream", "--jsonl", "-"]),
    (2, "context", ["generate", "{bundle}", PROMPT * 99]),
    (2, "--prompts", ["bench", "{bundle}"]),
    (2, "different", ["bench", "{bundle}", "--prompts", "{prompts}", "--methods", "auto,auto"]),
    (2, "no folder", ["bench", "{bundle}", "--prompts", "{prompts}", "--json", "none/out.jsonl"]),
    (1, "manifest.json", ["generate", "nowhere", PROMPT]),
    (1, "manifest.json", ["inspect", "nowhere"]),
    (1, "manifest.json", ["tune", "nowhere"]),
    (1, "no-such-model", ["build", "./no-such-model", "-o", "nowhere"]),
]


@pytest.mark.parametrize(("status", "message", "argv"), WRONG)
def test_errors_are_one_line(
    status: int,
    message: str,
    argv: list[str],
    tiny_bundle: Path,
    prompt_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word.format(bundle=tiny_bundle, prompts=prompt_file) for word in argv]
    try:
        returned: object = main(words)
    except SystemExit as stopped:
        returned = stopped.code
    assert returned == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("specrt: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_damaged_engine_is_a_failure(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))
    engine = copy / "target.engine"
    data = bytearray(engine.read_bytes())
    data[-1] ^= 1
    engine.write_bytes(data)
    assert main(["inspect", str(copy), "--verify"]) == 1
    engine.write_bytes(data[: len(data) // 2])
    for command in (["inspect", str(copy)], ["generate", str(copy), PROMPT]):
        assert main(command) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith("specrt: error: ")


def test_generate_prints_the_same_with_every_method_and_when_streaming(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", tiny_bundle, PROMPT, "--max-tokens", "24", "--temperature", "0.8"]
    words += ["--seed", "7"]
    texts = {
        output_of(capsys, *words, *more)
        for more in (
            ["--method", "autoregressive"],
            ["--method", "speculative", "--num-speculative-tokens", "3"],
            ["--stream"],
        )
    }
    assert len(texts) == 1
    assert len(texts.pop()) > 1


def test_generate_reads_stdin_and_reports_on_stderr(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = output_of(capsys, "generate", tiny_bundle, PROMPT, "--max-tokens", "8")
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT + "\n"))
    assert main(["generate", str(tiny_bundle), "--max-tokens", "8"]) == 0
    captured = capsys.readouterr()
    assert captured.out == direct
    assert re.search(r"\[speculative, \d+ tokens \(\w+\), [\d,]+ tokens/s", captured.err)
    output_of(capsys, "generate", tiny_bundle, PROMPT, "--max-tokens", "8", "--quiet")
    assert capsys.readouterr().err == ""


def test_generate_uses_the_chat_template_unless_raw(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", tiny_bundle, PROMPT, "--max-tokens", "2", "--jsonl", "-"]
    chat = json.loads(output_of(capsys, *words))
    raw = json.loads(output_of(capsys, *words, "--raw"))
    assert raw["metrics"]["prompt_tokens"] == len(PROMPT)
    assert chat["metrics"]["prompt_tokens"] == len(PROMPT) + 6  # 3 specials, 3 newlines


def test_generate_writes_json_lines(
    tiny_bundle: Path, prompt_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    words = ["generate", tiny_bundle, "--prompts", prompt_file, "--jsonl", out]
    assert output_of(capsys, *words, "--max-tokens", "6") == ""
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["prompt"]) for row in rows] == [("1", "One?"), ("2", "Two?")]
    for row in rows:
        metrics = row["metrics"]
        assert row["method"] == "speculative"
        assert len(row["token_ids"]) == metrics["completion_tokens"] <= 6
        assert metrics["speculative_decoding"]["draft_acceptance_rate"] == 1.0


def test_tune_stores_curves_that_inspect_shows(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))
    assert "specrt tune" in output_of(capsys, "inspect", copy)
    before = set(copy.iterdir())
    shown = output_of(capsys, "tune", copy, "--threads", "1")
    assert "predicted speed-up" in shown
    assert set(copy.iterdir()) == before
    curves = open_bundle(copy).curves
    assert curves is not None
    assert curves["threads"] == 1
    assert set(curves["step_ms"]) == {"target", "draft"}
    assert list(curves["step_ms"]["target"]) == list(curves["step_ms"]["draft"])
    for by_rows in curves["step_ms"].values():
        assert min(by_rows.values()) > 0
        assert list(by_rows.values()) == sorted(by_rows.values())
    assert shown in output_of(capsys, "inspect", copy)
    assert open_bundle(tiny_bundle).curves is None


def test_inspect_tells_the_plan_once_for_equal_layers(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = output_of(capsys, "inspect", tiny_bundle, "--verify")
    assert "layer 0 to 2, each:" in text
    assert text.count("attention_norm") == 2  # target and draft
    assert "every engine has the hash" in text
    facts = json.loads(output_of(capsys, "inspect", tiny_bundle, "--json"))
    target = facts["engines"]["target"]
    assert (target["vocab"], target["layers"], target["eos"]) == (277, 3, [3, 0])
    assert len(target["plan"]) == target["ops"]
    assert facts["engines"]["draft"]["sha256"] == target["sha256"]


def test_an_interrupt_ends_with_130(tiny_bundle: Path) -> None:
    words = [sys.executable, "-m", "specrt.cli.main", "bench", str(tiny_bundle)]
    prompts = tiny_bundle.parent / "many.jsonl"
    prompts.write_text('{"prompt": "x"}\n' * 200_000)
    process = subprocess.Popen(
        [*words, "--prompts", str(prompts)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "specrt: interrupted\n"

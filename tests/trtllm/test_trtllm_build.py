"""`specrt build --backend tensorrt-llm`: plans, conversions, and builds by a stand-in."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import specrt
from reference.tiny_llama import Head, TinyLlama, write_tiny_llama
from reference.tiny_medusa import TinyMedusa, write_tiny_medusa
from reference.unified_checkpoint import rebuild
from specrt.build import command as build_command
from specrt.cli.main import main
from specrt.trtllm.preflight import Obstacle

HERE = Path(__file__).parent
PYTHON = str(HERE / "stand_in_python.py")
FOUND: dict[str, Any] = {
    "python": [3, 12],
    "package": "1.2.1",
    "command": str(HERE / "stand_in_trtllm_build.py"),
    "driver": 13000,
    "driver_problem": "",
    "devices": [{"name": "Stand-in A", "compute_capability": "9.0"}],
}
BASE = TinyLlama(heads=8, layers=2, dtype="bf16", head=Head.UNTIED)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Folders `target`, `draft` and `heads`."""
    write_tiny_llama(tmp_path / "target", BASE)
    write_tiny_llama(tmp_path / "draft", TinyLlama(heads=8, layers=1, dtype="bf16", context=128))
    write_tiny_medusa(tmp_path / "heads", TinyMedusa(BASE))
    return tmp_path


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("STAND_IN_FOUND", json.dumps(FOUND))
    return monkeypatch


def run(models: Path, *words: str, status: int = 0) -> Path:
    """Builds `target` into `out`, as the command line does."""
    out = models / "out"
    argv = ["build", str(models / "target"), "--backend", "tensorrt-llm", "-o", str(out)]
    assert main([*argv, *words]) == status
    return out


def with_draft(models: Path) -> list[str]:
    return ["--draft", str(models / "draft")]


def plan(models: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    """The models of a plan; nothing is written."""
    out = run(models, *words, "--plan")
    assert not out.exists()
    commands, text = capsys.readouterr().out.split("\n\n", 1)
    described: list[dict[str, Any]] = json.loads(text)["models"]
    assert [" ".join(each["command"]) for each in described] == commands.split("\n")
    return described


def test_plan_of_a_pair(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, draft = plan(models, capsys, *with_draft(models), "--max-draft-len", "5")
    assert (target["role"], draft["role"]) == ("target", "draft")
    assert "draft_tokens_external --max_draft_len 5" in " ".join(target["command"])
    assert "speculative" not in " ".join(draft["command"])
    assert "--max_seq_len 128" in " ".join(draft["command"])
    assert target["config"]["num_hidden_layers"] == 2


def test_plans_of_one_model(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [alone] = plan(models, capsys, "--max-context", "100", "--dtype", "f16")
    assert alone["role"] == "autoregressive"
    assert "--gemm_plugin float16" in " ".join(alone["command"])
    assert "--max_seq_len 100" in " ".join(alone["command"])
    [medusa] = plan(models, capsys, "--draft", str(models / "heads"))
    assert medusa["role"] == "medusa"
    assert medusa["config"]["num_medusa_heads"] == 2
    [lookahead] = plan(models, capsys, "--lookahead", "4,3,4")
    assert lookahead["role"] == "lookahead"
    assert "--max_draft_len 15" in " ".join(lookahead["command"])


def test_conversion_needs_no_tensorrt(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*with_draft(models), "--tensor-parallel", "2", "--shard-embedding")
    out = run(models, "--checkpoint-only", *words)
    for name in ("target", "draft"):
        folder = out / name / "checkpoint"
        names = {"config.json", "rank0.safetensors", "rank1.safetensors"}
        assert {each.name for each in folder.iterdir()} == names
        assert not (out / name / "engine").exists()
        rebuild(folder)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["machine"] is None
    assert manifest["context"] == 128
    assert [each["engine"] for each in manifest["models"]] == [None, None]
    expected = f"specrt build {models}/target --draft {models}/draft --backend tensorrt-llm "
    expected += f"--tensor-parallel 2 --shard-embedding --checkpoint-only -o {out}"
    assert manifest["command"] == expected
    assert (out / "tokenizer.json").exists()


def test_engines_are_built_and_recorded(models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = (*with_draft(models), "--tensor-parallel", "2")
    out = run(models, "--trtllm-python", PYTHON, *words)
    assert capfd.readouterr().out.count("[stand-in] building\n") == 2
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["machine"]["package"] == "1.2.1"
    assert manifest["machine"]["devices"][0]["compute_capability"] == "9.0"
    assert manifest["command"].endswith(f"--tensor-parallel 2 --trtllm-python {PYTHON} -o {out}")
    target, draft = manifest["models"]
    assert target["engine"]["max_draft_len"] == 8
    assert draft["engine"]["max_draft_len"] == 0
    for entry in (target, draft):
        engine = out / entry["name"] / "engine"
        assert entry["engine"]["version"] == "stand-in"
        assert set(entry["engine"]["files"]) == {each.name for each in engine.iterdir()}
        assert str(engine) in entry["command"]
        assert "sha256" in entry["checkpoint"]["sources"][0]


FAULTS = [
    ("fails", "failed with status 3: [stand-in] building | [stand-in] out of memory"),
    ("no_engine", "wrote no rank1.engine"),
    ("empty", "wrote no rank0.engine"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS)
def test_a_build_that_fails_leaves_nothing(
    fault: str,
    words: str,
    models: Path,
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    environment.setenv("STAND_IN_BUILD", fault)
    before = sorted(models.iterdir())
    run(models, "--trtllm-python", PYTHON, "--tensor-parallel", "2", status=1)
    assert words in capsys.readouterr().err
    assert sorted(models.iterdir()) == before


OBSTACLES = [
    (Obstacle.PACKAGE, {"package": None}),
    (Obstacle.VERSION, {"package": "1.3.0"}),
    (Obstacle.PYTHON, {"python": [3, 11]}),
    (Obstacle.DRIVER, {"driver": None}),
    (Obstacle.DEVICE, {"devices": []}),
    (Obstacle.COMMAND, {"command": None}),
]


@pytest.mark.parametrize(("obstacle", "changes"), OBSTACLES)
def test_an_obstacle_is_the_exit_status(
    obstacle: Obstacle,
    changes: dict[str, Any],
    models: Path,
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    environment.setenv("STAND_IN_FOUND", json.dumps(FOUND | changes))
    out = run(models, "--trtllm-python", PYTHON, status=int(obstacle))
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()
    words = [str(models / "target"), "--backend", "tensorrt-llm", "-o", str(out)]
    assert build_command.main([*words, "--trtllm-python", PYTHON]) == obstacle


def test_a_ready_checkpoint_is_built(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(models, "--checkpoint-only", "--tensor-parallel", "2")
    ready = models / "ready"
    (first / "target" / "checkpoint").rename(ready)
    config = json.loads((ready / "config.json").read_text())
    config["architecture"] = "EagleForCausalLM"
    (ready / "config.json").write_text(json.dumps(config))
    out = models / "eagle"
    words = ["build", str(ready), "--backend", "tensorrt-llm", "-o", str(out)]
    assert main([*words, "--checkpoint-only"]) == 1
    assert "nothing to convert" in capsys.readouterr().err
    assert main([*words, "--trtllm-python", PYTHON]) == 0
    [entry] = json.loads((out / "manifest.json").read_text())["models"]
    assert (entry["role"], entry["ranks"]) == ("eagle", 2)
    assert str(ready) in entry["command"]
    assert "eagle" in entry["command"]
    assert len(entry["engine"]["files"]) == 3


def test_a_folder_is_replaced(models: Path) -> None:
    run(models, "--checkpoint-only")
    out = run(models, "--checkpoint-only", *with_draft(models))
    assert (out / "draft").exists()


REFUSED = [
    (("--dtype", "f32"), "f32"),
    (("--draft-backend", "cpu"), "--draft-backend"),
    (("--draft", "{models}/draft", "--draft", "{models}/heads"), "verifies in one way"),
    (("--draft", "{models}/draft", "--lookahead", "4,3,4"), "verifies in one way"),
    (("--max-draft-len", "64"), "64 draft tokens"),
    (("--max-draft-len", "0"), "0 draft tokens"),
    (("--tensor-parallel", "0"), "tensor parallel 0"),
    (("--max-context", "1"), "max_context 1"),
    (("--draft", "{models}/other"), "other' has 300 tokens and the target 277"),
]


@pytest.mark.parametrize(("words", "text"), REFUSED)
def test_what_is_refused(
    words: tuple[str, ...], text: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_llama(models / "other", TinyLlama(heads=8, layers=1, vocab=300))
    given = [word.format(models=models) for word in words]
    out = run(models, *given, "--checkpoint-only", status=1)
    assert text in capsys.readouterr().err
    assert not out.exists()


FLAGS = [
    ("--plan",),
    ("--checkpoint-only",),
    ("--shard-embedding",),
    ("--tensor-parallel", "2"),
    ("--max-draft-len", "4"),
    ("--lookahead", "4,3,4"),
    ("--trtllm-python", "python"),
    ("--dtype", "f16"),
]


@pytest.mark.parametrize("words", FLAGS)
def test_other_backends_refuse_its_flags(
    words: tuple[str, ...], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(models / "target"), "-o", str(models / "out"), *words]) == 1
    assert f"{words[0]} " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["7,7", "a,b,c", "0,3,4", "4,1,4"])
def test_lookahead_is_three_numbers(
    text: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(models, "--lookahead", text)
    assert text in capsys.readouterr().err


def test_the_runtime_does_not_take_the_folder(models: Path) -> None:
    out = run(models, "--checkpoint-only")
    with pytest.raises(specrt.Error, match="holds engines of TensorRT-LLM"):
        specrt.LLM(out)


def test_nothing_is_imported_by_default() -> None:
    code = "import specrt, specrt.build, specrt.cli.main, sys\n"
    code += "print([m for m in sys.modules if 'trtllm' in m or 'tensorrt' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""specrt bench: its JSON lines."""

import json
from pathlib import Path

import pytest
from specrt.cli.main import main

FIELDS = {
    *("method", "category", "prompt_file", "prompts", "new_tokens", "num_speculative_tokens"),
    *("tokens_per_second", "speedup_vs_autoregressive", "speedup_without_looping_prompts"),
    *("predicted_speedup", "loop_efficiency", "mean_acceptance_length", "draft_acceptance_rate"),
    *("accepted_at_position", "ttft_ms", "tpot_ms", "ms_per_round", "bytes_per_step"),
    *("identical_to_autoregressive", "memory_bandwidth_share", "weights_fit_in_cache"),
    *(
        "repeated_8gram_share",
        "eos_share",
        "skipped_prompts",
        "skipped_turns",
        "options",
        "machine",
        "version",
        "commit",
    ),
}


@pytest.fixture
def prompt_files(tmp_path: Path) -> list[str]:
    rows = {"sums": ["1 + 1 =", "2 + 2 ="], "words": ["Hello", "Bye"]}
    for name, prompts in rows.items():
        lines = (json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return [str(tmp_path / f"{name}.jsonl") for name in rows]


@pytest.mark.parametrize("temperature", ["0", "0.9"])
def test_rows(
    temperature: str,
    tiny_bundle: Path,
    prompt_files: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.jsonl"
    words = ["bench", str(tiny_bundle), "--prompts", *prompt_files, "--json", str(out)]
    words += ["--max-new-tokens", "20", "--num-speculative-tokens", "3", "--repeats", "2"]
    assert main([*words, "--temperature", temperature]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(set(row) == FIELDS for row in rows)
    assert [(row["prompt_file"], row["category"]) for row in rows[::2]] == [
        *(("sums", "sums"), ("words", "words"), ("sums,words", "all")),
    ]
    base, drafted = rows[-2:]
    assert (base["method"], drafted["method"]) == ("autoregressive", "speculative")
    assert all(row["identical_to_autoregressive"] for row in rows)
    assert drafted["prompts"] == 4
    assert drafted["new_tokens"] == base["new_tokens"] <= 80
    assert base["num_speculative_tokens"] == 0
    assert drafted["num_speculative_tokens"] == 3
    assert drafted["draft_acceptance_rate"] == 1.0  # the draft model is the target
    assert 1.0 < drafted["mean_acceptance_length"] <= 4.0
    assert drafted["bytes_per_step"] == 4 * base["bytes_per_step"]
    assert drafted["machine"]["memory_bandwidth_gb_per_second"] > 0
    for row in rows:
        assert row["tokens_per_second"] > 0
        assert row["loop_efficiency"] > 0
    table = capsys.readouterr().out
    assert "identical" in table
    assert table.count("speculative") == 3


def test_prompts_beyond_the_context_are_left_out(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "long.jsonl", tmp_path / "out.jsonl"
    words = ["bench", str(tiny_bundle), "--prompts", str(file), "--json", str(out), "--raw"]
    file.write_text(json.dumps({"prompt": "x" * 256}) + "\n")
    assert main(words) == 2
    assert "context of 256" in capsys.readouterr().err
    with file.open("a") as rows:
        rows.write(json.dumps({"prompt": "x" * 255}) + "\n")
    assert main(words) == 0
    assert "do not fit into the context: 1." in capsys.readouterr().out
    row = json.loads(out.read_text().splitlines()[-1])
    assert (row["prompts"], row["skipped_prompts"], row["new_tokens"]) == (1, 1, 1)


def test_a_method_alone_is_not_compared(
    tiny_bundle: Path, prompt_files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", str(tiny_bundle), "--prompts", prompt_files[0], "--limit", "1"]
    assert main([*words, "--methods", "speculative", "--max-new-tokens", "4"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[2].split()[-1] == "-"

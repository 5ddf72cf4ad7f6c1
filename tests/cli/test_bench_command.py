"""specrt bench: its JSON lines."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from specrt.cli.main import main

FIELDS = {
    *("method", "category", "prompt_file", "prompts", "new_tokens", "num_speculative_tokens"),
    *("tree_nodes", "tokens_per_second", "speedup_vs_autoregressive"),
    "speedup_without_looping_prompts",
    *(
        "predicted_speedup",
        "loop_efficiency",
        "mean_acceptance_length",
        "mean_accepted_run",
        "draft_overlap",
        "draft_acceptance_rate",
    ),
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
    assert 3 * base["bytes_per_step"] < drafted["bytes_per_step"] <= 4 * base["bytes_per_step"]
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


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def turn_of(row: dict[str, Any]) -> tuple[int, int]:
    return row["prompt"], row["turn"]


def test_all_files_tell_of_the_same_run(tiny_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text('{"question_id": 7, "turns": ["Hi", "Why?"]}\n{"prompt": "Bye"}\n')
    names = {name: tmp_path / f"{name}.jsonl" for name in ("json", "trace", "answers")}
    words = ["bench", str(tiny_bundle), "--prompts", str(file), "--plot", str(tmp_path / "p.png")]
    words += [word for name, path in names.items() for word in (f"--{name}", str(path))]
    assert main([*words, "--max-new-tokens", "12", "--num-speculative-tokens", "3"]) == 0
    assert (tmp_path / "p.png").stat().st_size > 0
    assert not names["answers"].exists()
    for total in lines_of(names["json"]):
        method = total["method"]
        answers = lines_of(tmp_path / f"answers.{method}.jsonl")
        assert [row["question_id"] for row in answers] == [7, 1]
        [first], [second] = (row["choices"] for row in answers)
        assert (len(first["turns"]), len(second["turns"])) == (2, 1)
        new_tokens = [*first["new_tokens"], *second["new_tokens"]]
        assert sum(new_tokens) == total["new_tokens"]
        rounds = [row for row in lines_of(names["trace"]) if row["method"] == method]
        assert list(dict.fromkeys(map(turn_of, rounds))) == [(0, 0), (0, 1), (1, 0)]
        assert sum(row["committed"] for row in rounds) == sum(new_tokens) - 3
        lengths = [*first["accept_lengths"], *second["accept_lengths"]]
        assert [row["committed"] for row in rounds] == lengths
        for (_, group), tokens in zip(groupby(rounds, turn_of), new_tokens, strict=True):
            first_round, *_, last_round = group
            assert last_round["position"] + last_round["committed"] == (
                first_round["position"] + tokens - 1
            )


def test_a_single_method_writes_its_answers_to_the_file_itself(
    tiny_bundle: Path, prompt_files: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    words = ["bench", str(tiny_bundle), "--prompts", prompt_files[0], "--answers", str(out)]
    assert main([*words, "--methods", "speculative", "--max-new-tokens", "4"]) == 0
    assert [row["model_id"] for row in lines_of(out)] == ["bundle-speculative"] * 2


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("no folder", ["--trace", "{tmp}/none/x.jsonl"]),
        ("--answers must name a file", ["--answers", "{tmp}", "--methods", "speculative"]),
        ("--trace would overwrite", ["--json", "{tmp}/x", "--trace", "{tmp}/x"]),
        (
            "--answers would overwrite",
            ["--json", "{tmp}/x.speculative.jsonl", "--answers", "{tmp}/x.jsonl"],
        ),
        ("--json would overwrite the input", ["--json", "{tmp}/sums.jsonl"]),
        (".png", ["--plot", "{tmp}/x.gif"]),
        ("needs autoregressive", ["--plot", "{tmp}/x.png", "--methods", "speculative"]),
    ],
)
def test_files_are_refused_before_anything_runs(
    message: str,
    options: list[str],
    prompt_files: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """There is no such bundle, and that is not what is said."""
    words = ["bench", "nowhere", "--prompts", prompt_files[0]]
    assert main([*words, *(option.format(tmp=tmp_path) for option in options)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert Path(prompt_files[0]).read_text().startswith("{")

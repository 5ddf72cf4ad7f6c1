"""Rows of a benchmark, from samples with known numbers."""

import dataclasses
import json

import pytest
from bench_samples import BASELINE, DRAFTED, LOOP, answer, run, sample
from specrt.eval.bench import MethodRun
from specrt.eval.report import bench_rows, json_rows
from specrt.eval.table import bench_table


def test_rows_by_file_then_all_together() -> None:
    rows = bench_rows(run(BASELINE, DRAFTED))
    assert [(row.prompt_file, row.category, row.method) for row in rows] == [
        ("f", "c", "autoregressive"),
        ("f", "c", "speculative"),
        ("g", "c", "autoregressive"),
        ("g", "c", "speculative"),
        ("f,g", "all", "autoregressive"),
        ("f,g", "all", "speculative"),
    ]


def test_one_group_is_only_written_once() -> None:
    single = dataclasses.replace(BASELINE, samples=BASELINE.samples[:1])
    assert [row.category for row in bench_rows(run(single))] == ["all"]


def test_pooled_numbers() -> None:
    base, drafted = bench_rows(run(BASELINE, DRAFTED))[-2:]
    assert base.tokens_per_second == 1000.0
    assert base.speedup_vs_autoregressive == 1.0
    assert base.mean_acceptance_length == 1.0
    assert base.draft_acceptance_rate is None
    assert base.ms_per_round == 1.0
    assert base.memory_bandwidth_share == 0.5  # 500 bytes in 1 ms of 1 MB/s
    assert base.weights_fit_in_cache and not drafted.weights_fit_in_cache
    assert drafted.tokens_per_second == 2500.0
    assert drafted.speedup_vs_autoregressive == 2.5
    assert drafted.mean_acceptance_length == pytest.approx(40 / 11, abs=1e-4)
    assert drafted.draft_acceptance_rate == pytest.approx(29 / 32, abs=1e-4)
    assert drafted.accepted_at_position == pytest.approx([1.0, 9 / 11, 9 / 11], abs=1e-4)
    assert drafted.loop_efficiency == 0.5
    assert drafted.predicted_speedup == 2.5
    assert drafted.new_tokens == 9 + 33
    assert drafted.eos_share == 0.5
    assert drafted.ttft_ms == 1.0
    assert drafted.tpot_ms == (1.0 + 0.25) / 2


def test_looping_prompts_can_be_left_out() -> None:
    drafted = bench_rows(run(BASELINE, DRAFTED))[-1]
    assert drafted.repeated_8gram_share == pytest.approx(25 / 28, abs=1e-4)
    assert drafted.speedup_without_looping_prompts == 1.0  # what is left is no faster


def test_one_other_token_is_seen() -> None:
    good = DRAFTED.samples[1]
    wrong = answer((*LOOP[:-1], 6), 8.0, [])
    other = dataclasses.replace(good, repeats=(good.answers, (wrong,)))
    changed = dataclasses.replace(DRAFTED, samples=(DRAFTED.samples[0], other))
    rows = bench_rows(run(BASELINE, changed))
    assert [row.identical_to_autoregressive for row in rows] == [
        True,
        True,
        True,
        False,
        True,
        False,
    ]


def test_without_a_baseline_nothing_is_compared() -> None:
    row = bench_rows(run(DRAFTED))[-1]
    assert row.speedup_vs_autoregressive is None
    assert row.identical_to_autoregressive is None
    assert row.predicted_speedup is None


def test_completions_of_one_token() -> None:
    single = MethodRun("autoregressive", 0, 500, (sample((3,), 0.0, []),))
    row = bench_rows(run(single))[-1]
    assert (row.tokens_per_second, row.ms_per_round, row.mean_acceptance_length) == (0.0, 0.0, 1.0)
    assert row.speedup_vs_autoregressive is None


def test_json_and_table() -> None:
    result = run(BASELINE, DRAFTED)
    objects = json_rows(result, "1.0", None)
    assert json.loads(json.dumps(objects)) == json.loads(json.dumps(objects, allow_nan=False))
    assert objects[-1]["machine"]["cpu_model"] == "cpu"
    assert objects[-1]["commit"] is None
    table = bench_table(bench_rows(result)).splitlines()
    assert len(table) == 7
    assert "2.50x" in table[-1] and "2,500" in table[-1]


def test_turns_are_pooled() -> None:
    both = dataclasses.replace(
        DRAFTED.samples[0],
        repeats=(tuple(one.answers[0] for one in DRAFTED.samples),),
    )
    [row] = bench_rows(run(dataclasses.replace(DRAFTED, samples=(both,))))
    pooled = bench_rows(run(DRAFTED))[-1]
    assert (row.prompts, pooled.prompts) == (1, 2)
    for name in (
        *("new_tokens", "tokens_per_second", "mean_acceptance_length", "draft_acceptance_rate"),
        *("accepted_at_position", "ttft_ms", "eos_share", "repeated_8gram_share", "ms_per_round"),
    ):
        assert getattr(row, name) == getattr(pooled, name), name

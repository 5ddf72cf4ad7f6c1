"""Rows of a benchmark, from samples with known numbers."""

import dataclasses
import json

import pytest
from specrt.eval.bench import BenchOptions, BenchRun, MethodRun, Sample
from specrt.eval.machine import Machine
from specrt.eval.prompts import Prompt
from specrt.eval.report import bench_rows, json_rows
from specrt.eval.table import bench_table
from specrt.outputs import Round

MACHINE = Machine("cpu", 2, cache_bytes=1000, memory_bytes=10**9, system="Linux")
VARIED = tuple(range(9))  # 8 decoded tokens, 2 8-grams
LOOP = (5,) * 33  # 32 decoded tokens, 26 8-grams, 25 of them repeated


def sample(
    tokens: tuple[int, ...], decode_ms: float, rounds: list[Round], *, file: str = "f"
) -> Sample:
    return Sample(
        prompt=Prompt("p", category="c", file=file),
        outputs=(tokens,),
        ended=len(tokens) < 10,
        ttft_ms=decode_ms / 8,
        decode_ms=decode_ms,
        rounds=tuple(rounds),
        predicted_ms=decode_ms / 2,
    )


def run(*methods: MethodRun) -> BenchRun:
    return BenchRun(BenchOptions(), MACHINE, 2, "cpu:x", bandwidth=1e6, skipped=0, methods=methods)


def plain(count: int) -> list[Round]:
    return [Round(0, 0, 1, 1.0)] * count


BASELINE = MethodRun(
    "autoregressive",
    0,
    bytes_per_round=500,
    samples=(sample(VARIED, 8.0, plain(8)), sample(LOOP, 32.0, plain(32), file="g")),
)
DRAFTED = MethodRun(
    "speculative",
    3,
    bytes_per_round=2000,
    samples=(
        sample(VARIED, 8.0, [Round(3, 3, 4, 1.0), Round(3, 1, 2, 1.0), Round(2, 1, 2, 1.0)]),
        sample(LOOP, 8.0, [Round(3, 3, 4, 1.0)] * 8, file="g"),
    ),
)


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
    other = dataclasses.replace(DRAFTED.samples[1], outputs=(LOOP, (*LOOP[:-1], 6)))
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

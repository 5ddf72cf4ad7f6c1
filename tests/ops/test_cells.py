"""The ops on cells: they run the rules of device/rules.h and choose from the right rows."""

import numpy as np
from op_arrays import padded_rows
from specrt._core import ops

VOCAB = 20


def greedy_sequence(tokens: list[int], eos: list[int] | None = None, **cells: int) -> ops.Sequence:
    """A running greedy sequence with room for 16 tokens."""
    sequence = ops.Sequence(tokens + [0] * (16 - len(tokens)), 0, eos or [])
    sequence.set_sampling(0.0)
    sequence.set({"limit": 16} | cells)
    return sequence


def logits_for(chosen: list[int]) -> np.ndarray:
    """Rows whose largest logits are at `chosen`."""
    return padded_rows(np.eye(VOCAB)[chosen], "f32")


def test_feed_prompt(runner: ops.Runner) -> None:
    """The span is what the host says."""
    sequence = greedy_sequence([1, 2, 3])
    runner.feed_prompt(sequence, 1, 2)
    assert (sequence.get()["base"], sequence.get()["rows"]) == (1, 2)


def test_a_lockstep_round(runner: ops.Runner) -> None:
    """Draft two tokens, feed them, accept one."""
    sequence = greedy_sequence([1, 2, 3], committed=3, tail=1, draft_kv=2)
    runner.begin_draft(sequence, 2, 1, 16, 2)
    assert (sequence.get()["base"], sequence.get()["rows"]) == (2, 1)
    runner.pick_draft(sequence, logits_for([7]), 0)
    assert (sequence.get()["base"], sequence.get()["rows"]) == (3, 1)
    runner.pick_draft(sequence, logits_for([8]), 1)
    assert sequence.tokens()[3:5] == [7, 8]
    runner.feed_tail(sequence, "appended")
    assert (sequence.get()["base"], sequence.get()["rows"]) == (2, 3)
    runner.judge(sequence, logits_for([7, 9, 1]), 0)
    assert sequence.tokens()[:5] == [1, 2, 3, 7, 9]
    assert sequence.log() == [
        {"round": 0, "committed_before": 3, "drafted": 2, "judged": 2, "accepted": 1, "stop": 0,
         "tokens": [7, 9]}
    ]  # fmt: skip
    assert sequence.get()["committed"] == 5


def test_pick_draft_reads_the_last_row(runner: ops.Runner) -> None:
    """A first draft step may feed several tokens."""
    sequence = greedy_sequence([1, 2, 3], committed=3, tail=1, draft_kv=1)
    runner.begin_draft(sequence, 4, 1, 16, 2)
    assert sequence.get()["rows"] == 2
    runner.pick_draft(sequence, logits_for([4, 5, 6]), 0)
    assert sequence.tokens()[3] == 5


def test_judge_of_the_last_prompt_chunk(runner: ops.Runner) -> None:
    """A tail of one token behind other rows of the span: its row is the last, after first_row."""
    sequence = greedy_sequence([1, 2, 3], committed=3, tail=1)
    runner.feed_prompt(sequence, 0, 3)
    runner.judge(sequence, logits_for([9, 9, 9, 9, 4]), 2)
    assert sequence.log()[0]["tokens"] == [4]


def test_judge_stops_at_eos(runner: ops.Runner) -> None:
    """Later rounds commit nothing and still log."""
    sequence = greedy_sequence([1, 2, 3, 7, 8], [7], committed=3, tail=3)
    runner.feed_tail(sequence, "committed")
    runner.judge(sequence, logits_for([7, 8, 9]), 0)
    runner.feed_tail(sequence, "committed")
    assert sequence.get()["rows"] == 0
    runner.judge(sequence, logits_for([1]), 0)
    assert [entry["tokens"] for entry in sequence.log()] == [[7], []]
    assert sequence.get()["stop"] == 1


def test_judge_survives_nan(runner: ops.Runner) -> None:
    """Rows of NaN choose some token of the vocabulary."""
    sequence = greedy_sequence([1, 2, 3], committed=3, tail=1)
    runner.feed_tail(sequence, "committed")
    runner.judge(sequence, padded_rows(np.full((1, VOCAB), np.nan), "f32"), 0)
    assert 0 <= sequence.log()[0]["tokens"][0] < VOCAB


def test_many_rows_are_judged_like_one(runner: ops.Runner) -> None:
    """With noise, the tokens of a long tail are those of single rows."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((10, 3000))
    chosen = []
    for position in range(3, 13):
        single = ops.Sequence([0] * 16, 99)
        single.set_sampling(1.0)
        single.set({"limit": 16, "committed": position, "tail": 1, "rows": 1})
        runner.judge(single, padded_rows(logits[position - 3 : position - 2], "f32"), 0)
        chosen += single.log()[0]["tokens"]
    sequence = ops.Sequence([0, 0, 0, *chosen[:-1], 0, 0, 0, 0], 99)
    sequence.set_sampling(1.0)
    sequence.set({"limit": 16, "committed": 3, "tail": 10, "rows": 10})
    runner.judge(sequence, padded_rows(logits, "f32"), 0)
    assert sequence.log()[0]["tokens"] == chosen

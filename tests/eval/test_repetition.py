"""Counting repeated 8-grams."""

import pytest
from specrt.eval.repetition import repetition


def test_nothing_repeats_in_a_short_or_varied_output() -> None:
    assert repetition([1, 2, 3]).share == 0.0
    assert repetition([]).share == 0.0
    assert repetition(range(100)).share == 0.0


def test_a_loop_repeats_all_but_its_first_turn() -> None:
    counted = repetition([1, 2, 3, 4] * 10)  # 33 8-grams, of which 4 are new
    assert (counted.ngrams, counted.repeated) == (33, 29)
    assert counted.share == pytest.approx(29 / 33)
    assert counted.is_looping


def test_half_is_not_yet_a_loop() -> None:
    once = list(range(8))
    counted = repetition(once + once)  # 9 8-grams: the last one is the first
    assert (counted.ngrams, counted.repeated) == (9, 1)
    assert not counted.is_looping

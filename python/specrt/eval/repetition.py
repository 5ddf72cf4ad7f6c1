"""Degenerate loops: a model that repeats itself makes drafting look better than it is."""

from collections.abc import Sequence
from dataclasses import dataclass

NGRAM = 8
LOOPING_SHARE = 0.5


@dataclass(frozen=True)
class Repetition:
    """Counts of the 8-grams of one output, or of several added up."""

    ngrams: int
    repeated: int  # of those, seen earlier in the same output

    @property
    def share(self) -> float:
        """Repeated / all; 0 for outputs shorter than 8 tokens."""
        return self.repeated / self.ngrams if self.ngrams else 0.0

    @property
    def is_looping(self) -> bool:
        """Whether more than half of the 8-grams had occurred before."""
        return self.share > LOOPING_SHARE


def repetition(token_ids: Sequence[int]) -> Repetition:
    """Counts the 8-grams of an output, and those that occurred earlier in it."""
    ngrams = [tuple(token_ids[i : i + NGRAM]) for i in range(len(token_ids) - NGRAM + 1)]
    return Repetition(len(ngrams), len(ngrams) - len(set(ngrams)))

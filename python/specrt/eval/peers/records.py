"""What the peers return: generations, step times, and why something was not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


class PeerError(Exception):
    """A peer cannot be built or run; the message is the reason shown in the table."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with its chat template applied. `token_ids` are what every peer must be fed."""

    name: str
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Generation:
    """One greedy continuation of one prompt.

    `tokens` counts what was generated, the end token included. `decode_tokens` came out during
    `decode_s`; the others, if any, at the end of the prefill. Times in seconds, without model
    loading and tokenization. `rounds` are the target's steps after the prefill, None if unknown.
    """

    text: str
    tokens: int
    prefill_s: float
    decode_s: float
    decode_tokens: int
    rounds: int | None = None
    drafted: int | None = None
    accepted: int | None = None


@dataclass(frozen=True)
class Variant:
    """One line of the table: a peer in one setting, ready to generate."""

    peer: str
    label: str
    baseline: str  # label of the same peer's plain decoding, which `x plain` divides by
    generate: Callable[[Prompt], Generation]

    @property
    def name(self) -> str:
        """Peer and setting."""
        return f"{self.peer} {self.label}"


@dataclass(frozen=True)
class StepTime:
    """Median time of one forward of `rows` tokens of one sequence over `depth` cached ones."""

    peer: str
    label: str
    rows: int
    depth: int
    ms: float


@dataclass(frozen=True)
class NotMeasured:
    """Something that could not be built or run, and why."""

    peer: str
    label: str
    reason: str


@dataclass(frozen=True)
class Settings:
    """What all peers share in one run."""

    threads: int
    max_new_tokens: int
    draft_lengths: tuple[int, ...]
    step_rows: tuple[int, ...]
    step_depth: int
    step_tokens: int  # single-token steps timed for rows == 1
    step_repeats: int


@dataclass(frozen=True)
class Peer:
    """What a peer offers for these models: variants, step times, facts about its build."""

    variants: Sequence[Variant]
    steps: Sequence[StepTime]
    missing: Sequence[NotMeasured]
    facts: dict[str, str]

"""What was measured of a bundle on some machine, as its manifest keeps it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from specrt.printable import printable

_CLEARLY_FASTER = 1.03


@dataclass(frozen=True)
class Place:
    """What steps run on.

    Attributes:
        machine: name of the CPU or GPU.
        threads: cores that are used; 0 on a GPU.
        isa: instruction set of the CPU, or architecture of the GPU.
    """

    machine: str
    threads: int
    isa: str


@dataclass(frozen=True)
class Curves:
    """Step times and speeds, and where they were measured: they belong to that place.

    Attributes:
        machine, threads, isa: the place.
        step_ms: milliseconds of a step by role ("target", "draft") and rows; as in the manifest,
            where `rows` are the keys of an object, they are text.
        overlapped_step_ms: the same where the models divide the cores, as under "pearl"; empty
            without a draft model.
        tokens_per_second: decoding rate by method, over a few prompts.
        acceptance: how often the draft model was right on these prompts, "reached_at_position" and
            "accepted_at_position"; empty without a draft model.
    """

    machine: str
    threads: int
    isa: str
    step_ms: dict[str, dict[str, float]]
    overlapped_step_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    tokens_per_second: dict[str, float] = field(default_factory=dict)
    acceptance: dict[str, tuple[int, ...]] = field(default_factory=dict)


def mismatch(curves: Mapping[str, Any], here: Place) -> str | None:
    """How a manifest's `curves` were measured otherwise than they are used; None if alike."""
    names = {"machine": "on", "threads": "with threads", "isa": "with"}
    other = [
        f"{names[key]} {printable(curves.get(key)):.80} (here: {value})"
        for key, value in asdict(here).items()
        if curves.get(key) != value
    ]
    return ", ".join(other) or None


def fastest_method(curves: Mapping[str, Any]) -> str | None:
    """The method with the best measured rate; None if none was measured.

    A method that drafts must be ahead by more than what two measurements differ by.
    """
    rates = curves.get("tokens_per_second")
    if not isinstance(rates, Mapping):
        return None
    known = {
        str(name): float(rate)
        for name, rate in rates.items()
        if isinstance(rate, int | float) and rate > 0
    }
    if not known:
        return None
    best = max(known, key=lambda name: known[name])
    plain = known.get("autoregressive", 0.0)
    return best if known[best] > _CLEARLY_FASTER * plain else "autoregressive"

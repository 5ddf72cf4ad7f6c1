"""What the training of a drafter measured: JSON, a plot, and the model card beside the drafter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Check:
    """One measurement on the validation slice; `loss` is the smoothed training loss there."""

    steps: int
    elements: int
    loss: float
    by_position: Sequence[float]
    mean_length: float

    def line(self) -> str:
        """For the log."""
        positions = " ".join(f"{share:.3f}" for share in self.by_position)
        return (
            f"step {self.steps}: loss {self.loss:.3f}, mean length {self.mean_length:.3f}, "
            f"accepted by position {positions}"
        )


@dataclass(frozen=True)
class Report:
    """A run: what went in, and the checks so far.

    `baseline` is the check of the draft that training started from, where that drafts token by
    token; `options` are the numbers of the run; `kind` and `does` are words for the card.
    """

    target: str
    target_sha256: str
    start: str
    depths: int
    parameters: int
    data: Sequence[str]
    options: dict[str, Any]
    kind: str
    does: str
    validation_prompts: int
    baseline: Check | None
    checks: tuple[Check, ...]

    @property
    def best(self) -> Check:
        """The check with the longest mean length, the latest of several: the drafter's folder."""
        return max(reversed(self.checks), key=lambda one: one.mean_length)

    def with_check(self, check: Check) -> Report:
        """The report with one more check."""
        return replace(self, checks=(*self.checks, check))

    def until(self, steps: int) -> Report:
        """The report with the checks of the first `steps` steps."""
        return replace(self, checks=tuple(one for one in self.checks if one.steps <= steps))


def resume_report(out: Path, report: Report) -> Report:
    """The report of a run into `out`, with the checks that it had before it was interrupted.

    Raises:
        ValueError: `out` holds a run of other models, data or options.
    """
    path = out / "training.json"
    if not path.is_file():
        return report
    stored = json.loads(path.read_text())
    ours = json.loads(json.dumps(asdict(report)))
    for name in ("target_sha256", "start", "depths", "parameters", "data", "options"):
        if stored.get(name) != ours[name]:
            raise ValueError(
                f"{out} holds a run with other {name}: {stored.get(name)}, not {ours[name]}; "
                "repeat that run or choose another folder"
            )
    return replace(report, checks=tuple(Check(**one) for one in stored["checks"]))


def write_report(report: Report, out: Path) -> None:
    """Write `training.json`, `training.png` and the card `README.md` into `out`."""
    content = asdict(report) | {"best": asdict(report.best)}
    (out / "training.json").write_text(json.dumps(content, indent=2) + "\n")
    (out / "README.md").write_text(_card(report))
    _plot(report, out / "training.png")


def _card(report: Report) -> str:
    rows = [("this drafter", report.best)]
    if report.baseline is not None:
        rows.append((f"{report.start}, token by token", report.baseline))
    positions = len(report.best.by_position)
    table = [
        "| | mean length | " + " | ".join(str(index + 1) for index in range(positions)) + " |",
        "|---|--:|" + "--:|" * positions,
    ]
    for name, check in rows:
        cells = " | ".join(f"{share:.3f}" for share in check.by_position)
        table.append(f"| {name} | {check.mean_length:.2f} | {cells} |")
    numbers = ", ".join(f"{key} {value}" for key, value in report.options.items())
    return "\n".join(
        (
            f"# {report.kind} for {report.target}\n",
            f"{report.parameters / 1e6:.1f} M parameters; drafts {report.does}.",
            f"Target: `{report.target}`, weights SHA-256 `{report.target_sha256}`.",
            f"Training started from `{report.start}`, on {_files(report.data)}.\n",
            "## Acceptance\n",
            f"Greedy, on the target's own answers to {report.validation_prompts} validation",
            "prompts. Mean length: tokens per target step, its own included; then the share of",
            "rounds in which the draft at each position was accepted.\n",
            *table,
            "",
            "## Recipe\n",
            f"{report.best.steps} steps, {report.best.elements / 1e6:.2f} M elements: {numbers}.\n",
        )
    )


def _files(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"


def _plot(report: Report, path: Path) -> None:
    """Loss and acceptance over the steps. matplotlib's `Figure` alone opens no display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [one.steps for one in report.checks]
    left.plot(steps, [one.loss for one in report.checks], marker="o", color="tab:gray")
    left.set(xlabel="step", ylabel="training loss")
    length = left.twinx()
    length.plot(steps, [one.mean_length for one in report.checks], marker="s", color="tab:blue")
    length.set_ylabel("mean acceptance length", color="tab:blue")
    rows = [("trained", report.best)]
    if report.baseline is not None:
        rows.append((f"{report.start}, token by token", report.baseline))
    for name, check in rows:
        places = range(1, len(check.by_position) + 1)
        right.plot(places, check.by_position, marker="o", label=name)
    right.set(xlabel="position", ylabel="share of rounds accepted", ylim=(0.0, 1.0))
    right.legend()
    part = path.with_suffix(".part.png")
    figure.savefig(part, dpi=120)
    part.replace(path)

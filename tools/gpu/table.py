"""The short text at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

from gpu.goals import GOALS
from gpu.results import Reading, Results

_MISS = 0.10  # of the prediction, from which on a reading gets a mark


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns, the first to the left."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def number(value: float) -> str:
    """Three digits or so."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _stages(results: Results) -> list[str]:
    rows = [("stage", "seconds", "budget", "status")]
    rows += [
        (stage.name, f"{stage.seconds:.0f}", f"{stage.budget:.0f}", stage.status)
        for stage in results.stages
    ]
    reasons = [f"{s.name}: {s.reason[:200]}" for s in results.stages if s.reason]
    return [*format_table(rows), *reasons]


def _readings(results: Results) -> list[str]:
    """A line for each family: what is the same up to the last part of the name."""
    families: dict[str, list[Reading]] = {}
    for reading in results.readings.values():
        families.setdefault(reading.name.rpartition(".")[0], []).append(reading)
    lines = []
    for family, readings in families.items():
        cells = [_cell(results, reading) for reading in readings]
        lines.append(f"{family} ({readings[0].unit}): {'  '.join(cells)}")
    return lines


def _cell(results: Results, reading: Reading) -> str:
    text = f"{reading.name.rpartition('.')[2]} {number(reading.value)}"
    prediction = results.predictions.get(reading.name)
    if prediction is not None:
        is_miss = abs(reading.value - prediction.value) > _MISS * abs(prediction.value)
        text += f" [{number(prediction.value)}{'!' if is_miss else ''}]"
    share = results.share_of_copy(reading.name)
    return text if share is None else f"{text} {share:.0%}"


def _goals(results: Results) -> list[str]:
    rows = [("goal", "measured", "limit", "")]
    for goal in GOALS:
        value = goal.value(results)
        is_met = {True: "yes", False: "NO", None: "-"}[goal.is_met(results)]
        limit = f"{'<=' if goal.is_upper else '>='} {number(goal.limit)}"
        rows.append((goal.text, "-" if value is None else number(value), limit, is_met))
    return format_table(rows)


def summary(results: Results) -> str:
    """Readings [predictions, ! if off by more than 10 %] share of a copy; goals; stages."""
    facts = results.facts
    commit, _, state = facts["commit"].partition("-")
    words = [
        facts["device"],
        f"driver {facts['driver'] or '-'}",
        f"cuda/ {facts['cuda_hash'][:12]}",
    ]
    words.append(f"commit {commit[:12] or '-'} {state}".strip())
    parts = [
        [", ".join(words)],
        ["measured [predicted, ! where it is off by more than 10 %], share of the copy bandwidth"],
        _readings(results),
        _goals(results),
        _stages(results),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)

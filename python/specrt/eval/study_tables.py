"""Tables that the studies over tasks share."""

from collections.abc import Sequence

from specrt.eval.report import ALL, BenchRow
from specrt.eval.table import identical_text, markdown_table, speedup_text

_POSITIONS = 8  # of a draft that a table shows


def speed_table(rows: Sequence[BenchRow]) -> list[str]:
    """Speed of every method on every task."""
    head = (
        "task",
        "method",
        "trees",
        "tokens/s",
        "speed-up",
        "mean acceptance length",
        "identical",
    )
    return markdown_table(
        head,
        (
            (
                f"{row.category} ({row.prompts})",
                f"`{row.method}`",
                "yes" if row.tree_nodes else "-",
                f"{row.tokens_per_second:.0f}",
                speedup_text(row.speedup_vs_autoregressive),
                f"{row.mean_acceptance_length:.2f}",
                identical_text(row.identical_to_autoregressive),
            )
            for row in rows
        ),
        texts=3,
    )


def acceptance_table(rows: Sequence[BenchRow]) -> list[str]:
    """Share of rounds whose draft held up to each position, over all tasks."""
    pooled = [row for row in rows if row.category == ALL and row.accepted_at_position]
    most = max((len(row.accepted_at_position) for row in pooled), default=0)
    places = range(min(_POSITIONS, most))
    lines = []
    for row in pooled:
        shares = [*row.accepted_at_position, *[0.0] * most]
        lines.append((f"`{row.method}`", *(f"{shares[place]:.2f}" for place in places)))
    return markdown_table(("method", *(str(place + 1) for place in places)), lines, texts=1)


def differing_rows(rows: Sequence[BenchRow]) -> list[str]:
    """Where tokens were not those of autoregressive decoding."""
    return [f"{row.method}, {row.category}" for row in rows if not row.identical_to_autoregressive]

"""Plain text tables for terminals and logs."""

from collections.abc import Iterable, Sequence

from specrt.eval.report import ALL, BenchRow

_HEADS = (
    *("prompts", "method", "drafted", "tokens/s", "speed-up", "accepted"),
    *("ms/round", "TTFT ms", "TPOT ms", "identical"),
)

BENCH_LEGEND = """\
tokens/s: decoding only, the prompt excluded. drafted: tokens proposed in a round at most.
accepted: mean acceptance length, tokens committed in a round. identical: same tokens as
autoregressive decoding for every prompt."""


def text_table(lines: Sequence[Sequence[str]], texts: int) -> str:
    """Aligns columns: the first `texts` to the left, the others, numbers, to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    aligned = (
        "  ".join(
            cell.ljust(width) if i < texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
    return "\n".join(aligned)


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]], texts: int) -> list[str]:
    """Lines of a table whose first `texts` columns are texts, the others numbers."""
    rule = ["---"] * texts + ["--:"] * (len(head) - texts)
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *lines)]


def speedup_text(value: float | None) -> str:
    """A ratio as people write it."""
    return "-" if value is None else f"{value:.2f}x"


def identical_text(value: bool | None) -> str:
    """Whether outputs are the same; a difference stands out."""
    return {True: "yes", False: "NO", None: "-"}[value]


def group_name(row: BenchRow, files: int) -> str:
    """The group of a row of a run over `files` prompt files, and how many prompts it has."""
    if row.category == ALL or files < 2:
        name = row.category
    elif row.category == row.prompt_file:
        name = row.prompt_file
    else:
        name = f"{row.prompt_file} ({row.category})"
    return f"{name}: {row.prompts}"


def bench_table(rows: Sequence[BenchRow]) -> str:
    """The rows of a benchmark, one line each."""
    files = len({row.prompt_file for row in rows if row.category != ALL})
    lines: list[Sequence[str]] = [_HEADS]
    for row in rows:
        lines.append(
            (
                group_name(row, files),
                row.method,
                str(row.num_speculative_tokens or "-"),
                f"{row.tokens_per_second:,.0f}",
                speedup_text(row.speedup_vs_autoregressive),
                f"{row.mean_acceptance_length:.2f}",
                f"{row.ms_per_round:.3f}",
                f"{row.ttft_ms:.1f}",
                f"{row.tpot_ms:.3f}",
                identical_text(row.identical_to_autoregressive),
            )
        )
    return text_table(lines, texts=2)

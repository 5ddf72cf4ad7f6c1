"""Benchmark of PEARL (arXiv 2408.11850) against drafting in turns, over six tasks.

Bundles, whose draft models may have several sizes, are measured one after the other, each as fast
as its steps are and paced; methods prompt by prompt (`bench`). A paced run stands for models with a
device each, whose speeds have the ratio c = t_target / t_draft.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from specrt.bundle import Bundle
from specrt.eval.bench import BASELINE, BenchOptions, BenchRun, run_bench
from specrt.eval.draft_cost import draft_cost
from specrt.eval.prompts import Prompt
from specrt.eval.report import ALL, BenchRow, bench_rows, json_rows
from specrt.eval.table import identical_text, markdown_table, speedup_text
from specrt.llm import LLM
from specrt.methods import Pace

IN_TURNS = "speculative"
OVERLAPPED = "pearl"
METHODS = (
    BASELINE,
    IN_TURNS,
    OVERLAPPED,
    f"{OVERLAPPED}@pre_verify_only",
    f"{OVERLAPPED}@post_verify_only",
)
DraftLength = int | Literal["ratio", "adaptive"]
_MOST_TOKENS = 63

_LEGEND = """\
c: t_target / t_draft, of the pace or, where steps are not paced, of single steps timed in this run.
k: tokens drafted in a round at most. Tokens a step: committed in a step of the target. Mean
accepted: tokens from one refusal to the next, as the paper counts. pearl@pre_verify_only is PEARL
without post-verify, pearl@post_verify_only without pre-verify; a step of the target that waits for
a first draft counts as a step of the latter."""


@dataclass(frozen=True)
class PearlRun:
    """One bundle at one pace.

    Attributes:
        bundle: its name.
        ratio: c = t_target / t_draft.
        run: what was measured.
    """

    bundle: str
    ratio: float
    run: BenchRun

    @property
    def pace(self) -> Pace | None:
        """Step times of paced mode; None: as fast as the steps are."""
        return self.run.options.pace

    @property
    def speed_text(self) -> str:
        """Whether the times are the machine's own."""
        return "real" if self.pace is None else self.pace.text

    @property
    def label(self) -> str:
        """Short, for one line of a table or a picture."""
        return f"{'real' if self.pace is None else 'PACED'}, c = {self.ratio:.3g}"

    @cached_property
    def rows(self) -> list[BenchRow]:
        """By task, then method; the last task is all of them."""
        return bench_rows(self.run)

    def row(self, method: str, task: str) -> BenchRow | None:
        """None if the method was not measured."""
        found = (row for row in self.rows if (row.method, row.category) == (method, task))
        return next(found, None)

    def over_speculative(self, row: BenchRow) -> float | None:
        """Ratio of tokens per second to drafting in turns on the same prompts."""
        in_turns = self.row(IN_TURNS, row.category)
        if in_turns is None or in_turns.tokens_per_second == 0.0:
            return None
        return row.tokens_per_second / in_turns.tokens_per_second


def differing(runs: Iterable[PearlRun]) -> list[str]:
    """Where tokens were not those of autoregressive decoding."""
    return [
        f"{each.bundle}, {each.label}: {row.method}, {row.category}"
        for each in runs
        for row in each.rows
        if not row.identical_to_autoregressive
    ]


def run_pearl(
    bundles: Mapping[str, Bundle],
    prompts: Sequence[Prompt],
    options: BenchOptions,
    paces: Sequence[Pace | None],
    draft_length: DraftLength = "ratio",
    *,
    progress: bool = False,
) -> list[PearlRun]:
    """Measures every bundle at every pace.

    Args:
        bundles: by name, each with a draft model.
        prompts: of all tasks.
        options: what to run; pace and number of speculative tokens are replaced.
        paces: None is as fast as the steps are.
        draft_length: tokens that every round drafts; "ratio" takes t_target / t_draft, as PEARL's
            theorem 1 does; "adaptive" as many as should pay.
        progress: whether to show a progress bar.

    Raises:
        ValueError: a method is not possible, or `options` leave out autoregressive decoding or
            change its tokens.
    """
    if BASELINE not in options.methods or options.rule != "exact":
        raise ValueError(f"outputs are compared with {BASELINE}, under the rule exact")
    runs = []
    for name, bundle in bundles.items():
        for pace in paces:
            ratio = _ratio(bundle, pace, options.threads)
            chosen = replace(
                options, pace=pace, num_speculative_tokens=_tokens(draft_length, ratio)
            )
            run = run_bench(bundle, prompts, chosen, progress=progress)
            runs.append(PearlRun(name, ratio, run))
    return runs


def _ratio(bundle: Bundle, pace: Pace | None, threads: int | None) -> float:
    if pace is not None:
        return pace.target_ms / pace.draft_ms
    cost = draft_cost(LLM(bundle, IN_TURNS, threads=threads), (1,))
    if cost is None:
        raise ValueError(f"{bundle.path} has no draft model whose steps could be timed")
    return cost.target_ms / cost.ms[0]


def _tokens(draft_length: DraftLength, ratio: float) -> int | None:
    if draft_length == "adaptive":
        return None
    return min(max(1, round(ratio)), _MOST_TOKENS) if draft_length == "ratio" else draft_length


def pearl_json(runs: Iterable[PearlRun], version: str, commit: str | None) -> list[dict[str, Any]]:
    """Rows of `bench` with their bundle, ratio, and speed-up over drafting in turns."""
    out = []
    for each in runs:
        for row, shown in zip(json_rows(each.run, version, commit), each.rows, strict=True):
            over = each.over_speculative(shown)
            out.append(
                {"bundle": each.bundle, "paced": each.pace is not None}
                | {"ratio": round(each.ratio, 4)}
                | row
                | {"speedup_vs_speculative": None if over is None else round(over, 4)}
            )
    return out


def pearl_markdown(runs: Sequence[PearlRun], place: str) -> str:
    """The report: speed by ratio and task, then every run."""
    parts = ["# PEARL: drafting while verifying\n", f"{place}.\n", f"{_LEGEND}\n"]
    parts += ["## Speed-up over autoregressive decoding, all prompts\n", *_summary(runs), ""]
    parts += [
        f"## `{OVERLAPPED}` by task: over autoregressive decoding (over `{IN_TURNS}`)\n",
        *_by_task(runs),
        "",
    ]
    for each in runs:
        parts += [f"## {each.bundle}, {each.speed_text}, c = {each.ratio:.3g}\n"]
        parts += [*_rows_table(each), ""]
    return "\n".join(parts)


def _speedup(each: PearlRun, method: str, task: str = ALL) -> str:
    row = each.row(method, task)
    return "-" if row is None else speedup_text(row.speedup_vs_autoregressive)


def _over(each: PearlRun, task: str = ALL) -> str:
    row = each.row(OVERLAPPED, task)
    return "-" if row is None else speedup_text(each.over_speculative(row))


def _summary(runs: Sequence[PearlRun]) -> list[str]:
    methods = [name for name in runs[0].run.options.methods if name != BASELINE]
    head = ("bundle", "steps", *(f"`{name}`" for name in methods), f"over `{IN_TURNS}`")
    lines = [
        (each.bundle, each.label, *(_speedup(each, name) for name in methods), _over(each))
        for each in runs
    ]
    return markdown_table(head, lines, texts=2)


def _by_task(runs: Sequence[PearlRun]) -> list[str]:
    tasks = list(dict.fromkeys(row.category for row in runs[0].rows))
    lines = [
        (
            each.bundle,
            each.label,
            *(f"{_speedup(each, OVERLAPPED, task)} ({_over(each, task)})" for task in tasks),
        )
        for each in runs
    ]
    return markdown_table(("bundle", "steps", *tasks), lines, texts=2)


def _rows_table(each: PearlRun) -> list[str]:
    head = (
        *("task", "method", "steps", "k", "tokens/s", "speed-up", f"over `{IN_TURNS}`"),
        *("tokens a step", "mean accepted", "acceptance", "identical"),
    )
    return markdown_table(head, (_row_cells(each, row) for row in each.rows), texts=3)


def _row_cells(each: PearlRun, row: BenchRow) -> Sequence[str]:
    rate = row.draft_acceptance_rate
    return (
        f"{row.category} ({row.prompts})",
        f"`{row.method}`",
        each.label,
        str(row.num_speculative_tokens or "-"),
        f"{row.tokens_per_second:.0f}",
        speedup_text(row.speedup_vs_autoregressive),
        speedup_text(each.over_speculative(row)),
        f"{row.mean_acceptance_length:.2f}",
        f"{row.mean_accepted_run:.2f}",
        "-" if rate is None else f"{rate:.2f}",
        identical_text(row.identical_to_autoregressive),
    )

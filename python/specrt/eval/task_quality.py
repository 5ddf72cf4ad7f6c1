"""Quality of a model's answers: exact match for queries, ROUGE for text.

Drafting never changes an answer, so that this is the quality of the model alone; it tells a target
that was fine-tuned together with its streams from one that was fine-tuned without.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rouge_score.rouge_scorer import RougeScorer

from specrt.eval.prompts import Prompt
from specrt.eval.table import markdown_table

# Tasks whose answers are queries; the answers of all others are text.
QUERIES = ("wikisql", "spider")
EXACT, ROUGE_1, ROUGE_LSUM = "exact match", "ROUGE-1", "ROUGE-Lsum"
_ROUGE = {ROUGE_1: "rouge1", ROUGE_LSUM: "rougeLsum"}


@dataclass(frozen=True)
class TaskQuality:
    """Mean score of a task, in percent.

    Attributes:
        task: its name.
        answers: how many were scored.
        scores: by the name of the measure.
    """

    task: str
    answers: int
    scores: dict[str, float]


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer is a reference but for case, spaces and a closing semicolon, else 0."""
    return float(_normalised(answer) in {_normalised(one) for one in references})


def _normalised(query: str) -> str:
    return " ".join(query.strip().removesuffix(";").lower().split())


def rouge(answer: str, references: Sequence[str]) -> dict[str, float]:
    """F-measures of ROUGE-1 and ROUGE-Lsum (Lin 2004) against the reference that fits best."""
    scorer = RougeScorer(list(_ROUGE.values()), use_stemmer=True)
    scores = scorer.score_multi(references, answer)
    return {name: scores[key].fmeasure for name, key in _ROUGE.items()}


def task_quality(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[TaskQuality]:
    """Scores of answers to prompts, by category in the order of first appearance.

    Raises:
        ValueError: a prompt has no reference.
    """
    scores: dict[str, list[dict[str, float]]] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        if not prompt.references:
            raise ValueError(f"{prompt.file}: row {prompt.index} has no reference")
        one = (
            {EXACT: exact_match(answer, prompt.references)}
            if prompt.category in QUERIES
            else rouge(answer, prompt.references)
        )
        scores.setdefault(prompt.category, []).append(one)
    return [
        TaskQuality(
            task, len(rows), {name: 100.0 * fmean(row[name] for row in rows) for name in rows[0]}
        )
        for task, rows in scores.items()
    ]


def quality_table(models: Mapping[str, Sequence[TaskQuality]]) -> list[str]:
    """A line for each task and measure, a column for each model."""
    first = next(iter(models.values()))
    lines = [
        (
            f"{task.task} ({task.answers})",
            measure,
            *(f"{rows[index].scores[measure]:.1f}" for rows in models.values()),
        )
        for index, task in enumerate(first)
        for measure in task.scores
    ]
    return markdown_table(("task", "measure", *models), lines, texts=2)

"""The six tasks that the papers on parallel and overlapped drafting report, from a data folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from specrt.eval.prompts import Prompt, read_prompts

TASKS = ("gsm8k", "humaneval", "mbpp", "mt_bench", "wikisql", "e2e_nlg")


def task_file(folder: Path, task: str) -> Path:
    """`TASK.jsonl` of a folder, or the same gzipped. Raises ValueError if there is neither."""
    for name in (f"{task}.jsonl", f"{task}.jsonl.gz"):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} has no {task}.jsonl or {task}.jsonl.gz")


def task_prompts(folder: Path, limit: int, tasks: Sequence[str] = TASKS) -> list[Prompt]:
    """The first `limit` prompts of every task; each task is one category.

    Raises:
        ValueError: a file is missing or damaged; the message says which.
    """
    files = [(task, task_file(folder, task)) for task in tasks]
    return [
        replace(prompt, category=task)
        for task, file in files
        for prompt in read_prompts(file, limit)
    ]

"""The parallel drafter of the demo: the target's answers, the recipe, and the card's sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from specrt.train.card import answer_source_table
from specrt.train.data import find_file, load_training_text
from specrt.train.demo import DEMO_TASKS
from specrt.train.generate import generate_answers, shard_files
from specrt.train.llama import load_llama
from specrt.train.parallel import ParallelOptions, train_parallel
from specrt.train.parallel_report import Report
from specrt.train.schedule import Schedule

DEPTHS = 8
LAYERS = 4  # all depths share one forward, so layers cost little beside the head


@dataclass(frozen=True)
class ParallelDemo:
    """What the command line chooses; `start` is the demo's draft or an earlier drafter."""

    data: Path
    models: Path
    start: Path
    out: Path
    generate_minutes: float
    steps: int
    schedule: Schedule
    seed: int


def make_answers(demo: ParallelDemo) -> tuple[Path, ...]:
    """Shards of the target's answers to training prompts; generated unless there are some."""
    folder = demo.out / "work" / "answers"
    if not shard_files(folder):
        tokenizer = Tokenizer.from_file(str(demo.models / "target" / "tokenizer.json"))
        text = load_training_text(demo.data, tokenizer)
        target = load_llama(demo.models / "target")
        generate_answers(target, text, folder, demo.generate_minutes, demo.seed)
    return tuple(shard_files(folder))


def train_demo_drafter(demo: ParallelDemo) -> Report:
    """Train the drafter into `demo.out` and add the sources of its text to its card."""
    report = train_parallel(
        ParallelOptions(
            target=demo.models / "target",
            draft=demo.start,
            data=make_answers(demo),
            out=demo.out,
            validation=tuple(find_file(demo.data / "dev", task) for task in DEMO_TASKS),
            depths=DEPTHS,
            layers=LAYERS,
            steps=demo.steps,
            batch_tokens=1024,
            optimizer="muon",
            learning_rate=1e-3,
            schedule=demo.schedule,
            validation_prompts=12,
            seed=demo.seed,
        )
    )
    card = demo.out / "README.md"
    heading = "\n## Training text\n\nThe target's answers to prompts of these files.\n\n"
    if heading not in card.read_text():
        with card.open("a") as file:
            file.write(heading + answer_source_table())
    return report

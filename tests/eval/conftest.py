"""Prompts of the six tasks, as the benchmarks over them read them."""

import gzip
import json
from pathlib import Path

import pytest
from specrt.eval.task_prompts import TASKS


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts for every task, one file gzipped; tests do not change it."""
    folder = tmp_path_factory.mktemp("data")
    for task in TASKS:
        row = json.dumps({"prompt": f"words of {task}", "category": "other"})
        (folder / f"{task}.jsonl").write_text(f"{row}\n{row}\n")
    packed = folder / "gsm8k.jsonl"
    (folder / "gsm8k.jsonl.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    return folder

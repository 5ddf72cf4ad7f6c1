"""Runs trtllm-build in a process of its own, and checks what came out."""

import subprocess
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specrt.build.errors import BuildError
from specrt.build.files import file_sha256
from specrt.build.hf import CONFIG
from specrt.build.json_file import read_json

_TAIL_LINES = 5


def run_program(command: Sequence[str]) -> None:
    """Run a command and print what it prints as it comes. Raises BuildError if it fails."""
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error.strerror}") from error
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            tail.append(line.strip())
        status = process.wait()
    finally:  # also where this process is interrupted
        process.kill()
        process.wait()
    if status != 0:
        raise BuildError(f"{command[0]} failed with status {status}: {' | '.join(tail)}")


def check_engine(folder: Path, ranks: int) -> dict[str, Any]:
    """The manifest's entry of an engine folder. Raises BuildError unless it is complete."""
    files = [CONFIG, *(f"rank{rank}.engine" for rank in range(ranks))]
    for name in files:
        path = folder / name
        if not path.is_file() or path.stat().st_size == 0:
            raise BuildError(f"trtllm-build ended without an error, but wrote no {name}")
    config = read_json(folder / CONFIG)
    built = config.get("build_config")
    if not isinstance(built, dict):
        raise BuildError(f"{folder / CONFIG}, which trtllm-build wrote, has no build_config")
    return {
        "version": config.get("version"),
        "max_seq_len": built.get("max_seq_len"),
        "max_draft_len": built.get("max_draft_len"),
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
            for name in files
        },
    }

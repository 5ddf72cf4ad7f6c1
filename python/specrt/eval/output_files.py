"""Files that a command is going to write, looked at before it does anything long."""

from collections.abc import Iterable, Mapping
from pathlib import Path


def check_output_files(outputs: Mapping[str, Iterable[Path]], inputs: Iterable[Path]) -> None:
    """Refuses files that cannot be written, or that would overwrite each other or an input.

    Args:
        outputs: by option, the files that it makes the command write.
        inputs: files that the command reads.

    Raises:
        ValueError: a folder is missing, a file is a folder, or one is named twice.
    """
    taken = {path.resolve(): f"the input {path}" for path in inputs}
    for option, paths in outputs.items():
        for path in paths:
            if not path.parent.is_dir():
                raise ValueError(f"there is no folder {path.parent} for {option}")
            if path.is_dir():
                raise ValueError(f"{option} must name a file; {path} is a folder")
            if path.resolve() in taken:
                raise ValueError(f"{option} would overwrite {taken[path.resolve()]}")
            taken[path.resolve()] = f"{path} of {option}"


def with_name_inside(path: Path, name: str) -> Path:
    """`path` with `name` before its suffix: answers.jsonl becomes answers.speculative.jsonl."""
    return path.with_name(f"{path.stem}.{name}{path.suffix}")

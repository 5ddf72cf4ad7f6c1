"""Make the test prompts: an even, repeatable selection from a folder of prompt files.

    python tools/make_test_prompts.py PROMPT_FOLDER tests/data/prompts.jsonl.gz

Every `*.jsonl` and `*.jsonl.gz` of the folder holds rows with "id", "category" and "prompt". News
summaries and DialogSum are left out, because their licences do not allow shipping them.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import TypeAlias

Prompt: TypeAlias = dict[str, str]

COUNT = 200
LONGEST = 2500  # characters
EXCLUDED_FILES = ("cnndm", "dialogsum", "t0")
EXCLUDED_CATEGORIES = ("dialogue_summarization", "summarization")


def read_rows(path: Path) -> list[Prompt]:
    """Rows of one file that may be shipped, in file order, with the three fields kept."""
    content = path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    rows = [json.loads(line) for line in text.split(b"\n") if line]
    return [
        {field: row[field] for field in ("id", "category", "prompt")}
        for row in rows
        if len(row["prompt"]) <= LONGEST and row["category"] not in EXCLUDED_CATEGORIES
    ]


def read_files(folder: Path) -> list[list[Prompt]]:
    """Rows of every file by file name; a prompt that was read before is dropped."""
    paths = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])
    seen: set[str] = set()
    files = []
    for path in paths:
        if path.name.startswith(EXCLUDED_FILES):
            continue
        rows = []
        for row in read_rows(path):
            text = row["prompt"].strip()
            if text not in seen:
                seen.add(text)
                rows.append(row)
        files.append(rows)
    return files


def shares(sizes: list[int], count: int) -> list[int]:
    """How many rows to take of each file: as even as the sizes allow, earlier files first."""
    taken = [0] * len(sizes)
    while sum(taken) < min(count, sum(sizes)):
        open_files = [i for i, size in enumerate(sizes) if taken[i] < size]
        smallest = min(open_files, key=lambda i: taken[i])
        taken[smallest] += 1
    return taken


def select(files: list[list[Prompt]], count: int) -> list[Prompt]:
    """`count` rows, evenly over the files, evenly spaced within each."""
    chosen = []
    for rows, share in zip(files, shares([len(rows) for rows in files], count), strict=True):
        chosen += [rows[i * len(rows) // share] for i in range(share)]
    return chosen


def write_prompts(path: Path, prompts: list[Prompt]) -> None:
    """Write gzipped JSON lines, without a time stamp."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in prompts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make the test prompts.")
    parser.add_argument("folder", type=Path, help="folder with prompt files")
    parser.add_argument("output", type=Path, help="file to write, .jsonl.gz")
    arguments = parser.parse_args()
    prompts = select(read_files(arguments.folder), COUNT)
    write_prompts(arguments.output, prompts)
    print(f"{len(prompts)} prompts, {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()

"""Many requests, many LLMs, many cancelled streams: no memory, thread or file is left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cpu_only("a leak of the emulator is no leak")

# Does one thing again and again in a fresh process. The first part warms up; then what the process
# holds is noted a few times, so that growth can be told from noise.
PROGRAM = """
import gc, json, os, sys, time
from pathlib import Path
import specrt

bundle, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
params = [
    specrt.SamplingParams(temperature=0.8, max_tokens=3, seed=5, logprobs=2, stop="zq"),
    specrt.SamplingParams(temperature=0, max_tokens=2, repetition_penalty=1.1),
]
methods = ("autoregressive", "speculative", "ngram", "ngram+speculative")
llm = specrt.LLM(bundle, "ngram+speculative", threads=2)

def request(number):
    llm.generate([[7 + number % 90] * (1 + number % 9)], params[number % 2])

def cancelled_stream(number):
    stream = llm.stream([7 + number % 90], params[0])
    next(stream)
    stream.close()

def refused_request(number):
    for prompt in ([[]], [[5] * 99], [[-1]], "\\ud800"):
        try:
            llm.generate(prompt)
        except ValueError:
            continue
        raise SystemExit("not refused")

def new_llm(number):
    made = specrt.LLM(bundle, methods[number % 4], threads=2)
    made.generate([[9, 8]], params[1])

def failed_llm(number):
    for arguments in ({"isa": "mmx"}, {"method": "speculative", "run_ahead": 9}):
        try:
            specrt.LLM(bundle, **arguments)
        except ValueError:
            continue
        raise SystemExit("not refused")

def held():
    gc.collect()
    time.sleep(0.05)  # a joined thread may be listed for a moment
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

notes = []
for part in range(5):
    for number in range(count // 5):
        globals()[kind](number)
    notes.append(held())
print(json.dumps(notes))
"""

TURNS = [
    ("request", 10_000),
    ("refused_request", 1_000),
    ("cancelled_stream", 1_000),
    ("new_llm", 400),
    ("failed_llm", 200),
]
NOISE = 512 << 10  # bytes; a turn that left a few hundred would show


@pytest.mark.parametrize(("kind", "turns"), TURNS)
def test_nothing_is_left_behind(kind: str, turns: int, tiny_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_bundle), kind, str(turns)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    resident, threads, files = zip(*json.loads(done.stdout), strict=True)
    assert set(threads) == {threads[0]}
    assert set(files) == {files[0]}
    assert resident[-1] - resident[1] < NOISE  # two fifths are warm-up

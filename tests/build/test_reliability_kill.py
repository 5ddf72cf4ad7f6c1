"""Builds that are killed at random moments: there is the old bundle or the new one, always whole.

The long form, 1000 kills for each signal: SPECRT_LONG_TESTS=1 pytest tests/build -k killed
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt.build.bundle import verify

# Forks a process for each build, so that the imports are paid once; builds bf16 and f32 in turn.
# The time of the first, undisturbed build is the range that the moments are drawn from.
PROGRAM = """
import json, os, random, signal, sys, time
from pathlib import Path
from specrt import LLM
from specrt.build import build
from specrt.build.bundle import verify
from specrt.eval import curves

model, draft, out = map(Path, sys.argv[1:4])
kind, kills = signal.Signals(int(sys.argv[4])), int(sys.argv[5])
curves.ROWS, curves._PASSES = (1, 2), 3
random.seed(int(kind))

def child(work):
    process = os.fork()
    if process:
        return process
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # of a KeyboardInterrupt
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)

def make(number):
    dtype = ("bf16", "f32")[number % 2]
    return child(lambda: build(model, draft=draft, out=out, dtype=dtype, progress=False))

def load():
    LLM(out, threads=1).generate([[7, 8, 9]])

begin = time.monotonic()
status = os.waitpid(make(0), 0)[1]
longest = time.monotonic() - begin
assert status == 0
counts = {"killed": 0, "done": 0, "leftovers": 0}
for number in range(1, kills + 1):
    process = make(number)
    time.sleep(random.uniform(0, 1.2 * longest))
    os.kill(process, kind)
    status = os.waitpid(process, 0)[1]
    counts["killed" if status else "done"] += 1
    assert verify(out)["curves"] is not None
    assert os.waitpid(child(load), 0)[1] == 0
    left = sorted(path.name for path in out.parent.iterdir())
    assert len(left) <= 2, left  # one build cleans up behind the one before
    counts["leftovers"] += len(left) - 1
assert os.waitpid(make(0), 0)[1] == 0
print(json.dumps(counts))
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_build_leaves_a_whole_bundle(
    kind: signal.Signals, long_run: bool, tmp_path: Path
) -> None:
    model = write_tiny_llama(tmp_path / "model", TinyLlama(layers=2))
    draft = write_tiny_llama(tmp_path / "draft", TinyLlama(layers=1, seed=2))
    out = tmp_path / "out" / "bundle"
    kills = 1000 if long_run else 25
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, model, draft, out, str(int(kind)), str(kills)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=1800,
    )
    counts = json.loads(done.stdout)
    assert counts["killed"] > 5
    assert verify(out)["dtype"] == "bf16"
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]

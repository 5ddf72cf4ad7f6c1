"""Several LLMs and several threads at once: every output is that of one thread alone."""

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from specrt import LLM, SamplingParams

pytestmark = pytest.mark.cpu_only("the emulator runs one thread at a time")

METHODS = ("autoregressive", "speculative", "ngram+speculative", "pearl")
PROMPTS = ("Once upon a time", "SELECT name FROM", "The name of the place is", "1 2 3 1 2 3 1")
TOKENS = 40


def params_of(number: int) -> SamplingParams:
    """Greedy and sampled in turn."""
    return SamplingParams(
        temperature=float(number % 2), max_tokens=TOKENS, seed=number, ignore_eos=True
    )


def outputs(llm: LLM, numbers: Sequence[int]) -> list[list[int]]:
    return [llm.generate(PROMPTS[n % len(PROMPTS)], params_of(n))[0].token_ids for n in numbers]


def streamed(llm: LLM, number: int) -> list[int]:
    chunks = llm.stream(PROMPTS[number % len(PROMPTS)], params_of(number))
    return [token for chunk in chunks for token in chunk.token_ids]


def run_together(jobs: Sequence[Callable[[], None]]) -> None:
    """Runs every job in a thread of its own; what one of them raises is raised here."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def guarded(job: Callable[[], None]) -> None:
        start.wait()
        try:
            job()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


@pytest.fixture(scope="module")
def expected(demo_bundle: Path) -> list[list[int]]:
    """What one LLM in one thread gives."""
    return outputs(LLM(demo_bundle, method="autoregressive", threads=1), range(12))


def test_llms_at_the_same_time(demo_bundle: Path, expected: list[list[int]]) -> None:
    llms = [LLM(demo_bundle, method=method, threads=2) for method in METHODS]
    results: dict[int, list[list[int]]] = {}

    def job(number: int) -> Callable[[], None]:
        return lambda: results.update({number: outputs(llms[number], range(12))})

    run_together([job(number) for number in range(len(llms))])
    assert results == dict.fromkeys(range(len(llms)), expected)


@pytest.mark.parametrize("method", METHODS)
def test_one_llm_called_from_several_threads(
    method: str, demo_bundle: Path, expected: list[list[int]]
) -> None:
    llm = LLM(demo_bundle, method=method, threads=2)
    results: dict[int, list[int]] = {}

    def job(number: int) -> Callable[[], None]:
        if number % 3 == 2:
            return lambda: results.update({number: streamed(llm, number)})
        return lambda: results.update({number: outputs(llm, [number])[0]})

    run_together([job(number) for number in range(12)])
    assert [results[number] for number in range(12)] == expected


def test_llms_come_and_go_while_others_generate(
    demo_bundle: Path, expected: list[list[int]]
) -> None:
    stays = [LLM(demo_bundle, method=method, threads=2) for method in METHODS[:2]]
    done = threading.Event()
    made = 0

    def generate(llm: LLM) -> None:
        assert outputs(llm, range(12)) == expected

    def come_and_go() -> None:
        nonlocal made
        while not done.is_set() or made < 4:
            llm = LLM(demo_bundle, method=METHODS[made % len(METHODS)], threads=2)
            number = made % 12
            if made % 2:
                assert outputs(llm, [number]) == [expected[number]]
            else:  # gone in the middle of a stream
                first = next(llm.stream(PROMPTS[number % len(PROMPTS)], params_of(number)))
                assert first.token_ids == expected[number][: len(first.token_ids)]
            made += 1

    def stay() -> None:
        try:
            run_together([lambda llm=llm: generate(llm) for llm in stays])  # type: ignore[misc]
        finally:
            done.set()

    run_together([stay, come_and_go])
    assert made >= 4


def test_requests_that_fail_beside_others_do_not_disturb_them(
    demo_bundle: Path, expected: list[list[int]]
) -> None:
    llm = LLM(demo_bundle, threads=2)

    def fail() -> None:
        for _ in range(40):
            with pytest.raises(ValueError, match="context"):
                llm.generate([[5] * 3000])

    def generate() -> None:
        assert outputs(llm, range(12)) == expected

    run_together([fail, generate, fail, generate])


LEAVE = """
import sys, threading, time, specrt
llm = specrt.LLM(sys.argv[1], threads=2)
params = specrt.SamplingParams(temperature=0, max_tokens=1500, ignore_eos=True)
if sys.argv[2] == "stream":
    stream = llm.stream("Once upon a time", params)
    next(stream)
elif sys.argv[2] == "error":
    stream = llm.stream("Once upon a time", params)
    next(stream)
    raise SystemExit("wrong")
else:
    call = lambda: llm.generate(["Once upon a time"] * 50, params)
    threading.Thread(target=call, daemon=True).start()
    time.sleep(0.3)
print("left", flush=True)
"""


@pytest.mark.parametrize(
    ("way", "status", "printed"), [("stream", 0, "left"), ("error", 1, ""), ("daemon", 0, "left")]
)
def test_a_program_may_end_while_tokens_come(
    way: str, status: int, printed: str, demo_bundle: Path
) -> None:
    """A stream that nobody closed, an error meanwhile, a daemon thread that generates."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVE, str(demo_bundle), way],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip()) == (status, printed)
    assert "terminate" not in done.stderr


FORK = """
import os, sys, specrt
params = specrt.SamplingParams(temperature=0, max_tokens=9, ignore_eos=True)
llm = specrt.LLM(sys.argv[1], threads=2)
print(len(llm.generate("Hello", params)[0].token_ids), flush=True)
process = os.fork()
if process == 0:
    try:
        llm.generate("Hello")
    except specrt.Error as error:
        print(error, flush=True)
    fresh = specrt.LLM(sys.argv[1], threads=2)
    print(len(fresh.generate("Hello", params)[0].token_ids), flush=True)
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
print(len(llm.generate("Hello", params)[0].token_ids))
"""


def test_a_forked_process_is_told_to_make_its_own(demo_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(demo_bundle)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    error = "this LLM was made before the process forked; make one in the new process"
    assert done.stdout.splitlines() == ["9", error, "9", "7", "9"]

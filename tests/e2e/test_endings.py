"""How completions end: stop tokens, max_tokens, the end of the context, cancelling."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from backends import by_backend
from specrt import LLM, SamplingParams

METHODS = ("autoregressive", "speculative", "pearl")
GREEDY = SamplingParams(temperature=0, max_tokens=40)


@pytest.fixture(scope="module", params=METHODS)
def llm(request: pytest.FixtureRequest, demo_bundle: Path) -> LLM:
    return LLM(demo_bundle, method=request.param, threads=2)


def test_max_tokens(llm: LLM) -> None:
    for count in (1, 2, 3, 7, 30):
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        [out] = llm.generate("Once upon a time", params)
        assert len(out.token_ids) == count
        assert out.finish_reason == "length"
        assert sum(r.committed for r in out.metrics.rounds) == count - 1


def test_a_stop_token_is_the_last_token(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    [free] = llm.generate("Once upon a time", params)
    for index in (0, 1, 2, 5, 11, 23):
        stop = free.token_ids[index]
        first = free.token_ids.index(stop)
        params = SamplingParams(
            temperature=0, max_tokens=40, ignore_eos=True, stop_token_ids=[stop]
        )
        [out] = llm.generate("Once upon a time", params)
        assert out.token_ids == free.token_ids[: first + 1]
        assert out.finish_reason == "stop"


def test_end_of_sequence(llm: LLM) -> None:
    text = llm.tokenizer.apply_chat_template([{"role": "user", "content": "Say hello."}])
    tokens = by_backend(cpu=400, cuda=60)
    [out] = llm.generate(text, SamplingParams(temperature=0, max_tokens=tokens))
    [longer] = llm.generate(text, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))
    assert longer.token_ids[: len(out.token_ids)] == out.token_ids
    if out.finish_reason == "stop":
        assert out.token_ids[-1] in (0, 3)
        assert "<|end|>" not in out.text


def test_stream_gives_the_same_text_and_tokens(llm: LLM) -> None:
    for temperature, seed in ((0.0, 0), (1.0, 5), (1.5, 6)):
        tokens = by_backend(cpu=120, cuda=30)
        params = SamplingParams(temperature=temperature, max_tokens=tokens, seed=seed)
        [out] = llm.generate("Write about caf\u00e9s \u2603", params)
        chunks = list(llm.stream("Write about caf\u00e9s \u2603", params))
        assert "".join(chunk.text for chunk in chunks) == out.text
        assert [t for chunk in chunks for t in chunk.token_ids] == out.token_ids
        assert chunks[-1].output is not None
        assert chunks[-1].output.token_ids == out.token_ids
        assert all(chunk.finish_reason is None for chunk in chunks[:-1])


def test_closing_a_stream_cancels(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=1500, ignore_eos=True)
    stream = llm.stream("Once upon a time", params)
    first = next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert first.token_ids
    begin = time.monotonic()
    [out] = llm.generate("Once upon a time", GREEDY)
    assert len(out.token_ids) <= 40
    assert time.monotonic() - begin < 20


def test_the_seed_repeats_a_completion(llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=30)
    [drawn] = llm.generate("Hello", params)
    [other] = llm.generate("Hello", params)
    assert drawn.seed != other.seed
    again = SamplingParams(temperature=1.0, max_tokens=30, seed=drawn.seed)
    assert llm.generate("Hello", again)[0].token_ids == drawn.token_ids
    wide = SamplingParams(temperature=1.0, max_tokens=30, seed=2**64 - 1)
    assert llm.generate("Hello", wide)[0].seed == 2**64 - 1


def test_several_threads_share_one_llm(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=by_backend(cpu=20, cuda=6))
    expected = [out.token_ids for out in llm.generate(["One", "Two", "Three"], params)]
    results: dict[int, list[list[int]]] = {}

    def work(number: int) -> None:
        outs = llm.generate(["One", "Two", "Three"], params)
        results[number] = [out.token_ids for out in outs]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [results[i] for i in range(4)] == [expected] * 4


def test_ctrl_c_cancels(demo_bundle: Path) -> None:
    program = (
        "import sys, specrt\n"
        "llm = specrt.LLM(sys.argv[1], threads=2)\n"
        "params = specrt.SamplingParams(temperature=0, max_tokens=2000, ignore_eos=True)\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    while True: llm.generate('Once upon a time', params)\n"
        "except KeyboardInterrupt:\n"
        "    out = llm.generate('Hello', specrt.SamplingParams(temperature=0, max_tokens=3))\n"
        "    print('cancelled', len(out[0].token_ids), flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(demo_bundle)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert output == "cancelled 3\n"
    assert process.returncode == 0

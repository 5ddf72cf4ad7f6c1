"""The example service under a real client: answers, refusals, load, disconnects, shutdown."""

import re
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import specrt
from http_service import Answer, Holdings, Service, events_of

CLIENTS = 64
ROUNDS = 4


def prompt(number: int) -> list[int]:
    return [(number * 37 + i * 11) % 8000 + 10 for i in range(6 + number % 20)]


@pytest.fixture(scope="module")
def direct(bundle: Path) -> specrt.LLM:
    return specrt.LLM(bundle, method="autoregressive")


def test_answers_are_those_of_a_direct_run(service: Service, direct: specrt.LLM) -> None:
    for number, temperature in enumerate([0.0, 0.8, 0.8]):
        params = specrt.SamplingParams(temperature=temperature, max_tokens=40, seed=number)
        [expected] = direct.generate([prompt(number)], params)
        fields = {
            "prompt": prompt(number),
            "temperature": temperature,
            "max_tokens": 40,
            "seed": number,
            "stream": False,
        }
        whole = service.generate(**fields)
        streamed = service.generate(**{**fields, "stream": True})
        assert whole.status == streamed.status == 200
        for answer in (whole, streamed):
            assert answer.body["token_ids"] == list(expected.token_ids)
            assert answer.body["text"] == expected.text
            assert answer.body["finish_reason"] == expected.finish_reason
            assert answer.body["usage"]["prompt_tokens"] == len(prompt(number))
            assert answer.body["usage"]["completion_tokens"] == len(expected.token_ids)


def test_a_stop_text_that_is_held_back_is_not_sent(service: Service, direct: specrt.LLM) -> None:
    params = specrt.SamplingParams(temperature=0, max_tokens=60)
    [plain] = direct.generate([prompt(0)], params)
    stop = plain.text[20:24]
    answer = service.generate(
        prompt=prompt(0), temperature=0, max_tokens=60, stop=[stop], stream=True
    )
    assert answer.body["text"] == plain.text[: plain.text.index(stop)]
    assert answer.body["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "must be a JSON object"),
        (b"{", 400, "must be a JSON object"),
        (b"[" * 60000, 400, "must be a JSON object"),
        (b"[1, 2]", 400, "must be a JSON object"),
        (b"\xff\xfe{}", 400, "must be a JSON object"),
        (b"{}", 400, "the prompt is empty"),
        (b'{"prompt": []}', 400, "the prompt is empty"),
        (b'{"prompt": "text"}', 400, "prompt must be a list"),
        (b'{"prompt": [1.5]}', 400, "a token of prompt must be an integer"),
        (b'{"prompt": [-1]}', 400, "a token of prompt must be an integer"),
        (b'{"prompt": [18446744073709551615]}', 400, "a token of prompt must be an integer"),
        (b'{"prompt": [8192]}', 400, "token 8192 is outside"),
        (b'{"prompt": [' + b"1," * 200 + b"1]}", 400, "201 tokens; at most 200"),
        (b'{"prompt": [1], "max_tokens": 513}', 400, "max_tokens must be an integer in [1, 512]"),
        (b'{"prompt": [1], "max_tokens": true}', 400, "max_tokens must be an integer"),
        (b'{"prompt": [1], "temperature": -1}', 400, "temperature must be"),
        (b'{"prompt": [1], "temperature": 1e300}', 400, "temperature must be"),
        (b'{"prompt": [1], "top_p": 0}', 400, "top_p must be"),
        (b'{"prompt": [1], "stop": [""]}', 400, "stop holds an empty text"),
        (b'{"prompt": [1], "deadline_ms": 0}', 400, "deadline_ms must be"),
        (b'{"prompt": [1], "n": 2}', 400, 'no field "n"'),
        (b'{"prompt": [1], "stream": 1}', 400, "stream must be true or false"),
    ],
)
def test_bad_requests_are_refused_by_name(
    service: Service, body: bytes, status: int, words: str
) -> None:
    answer = service.send("POST", "/generate", body)
    assert answer.status == status
    assert words in answer.body["error"]["message"]


def test_bodies_beyond_the_limit_are_refused(service: Service) -> None:
    assert service.send("POST", "/generate", b" " * 65537).status == 413
    assert service.send("POST", "/generate", b" " * 1_000_000).status == 413
    assert service.generate(prompt=[5], max_tokens=1).status == 200


def test_a_deadline_ends_a_request(service: Service) -> None:
    answer = service.generate(prompt=prompt(2), max_tokens=512, ignore_eos=True, deadline_ms=30)
    assert answer.status == 200
    assert answer.body["finish_reason"] == "deadline"
    assert len(answer.body["token_ids"]) < 512


def one_client(service: Service, client: int) -> list[tuple[int, Answer]]:
    """A client's requests, sane and not; the sane ones with their numbers."""
    answers = []
    for turn in range(ROUNDS):
        number = (client + turn) % 16
        kind = (client * 7 + turn) % 6
        if kind == 0:
            assert service.send("POST", "/generate", b"{bad").status == 400
        elif kind == 1:
            service.leave_in_mid_stream(prompt=prompt(number), max_tokens=500, ignore_eos=True)
        elif kind == 2:
            with socket.create_connection(("127.0.0.1", service.port)) as half:
                half.sendall(b"POST /generate HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        fields = {"prompt": prompt(number), "max_tokens": 24, "temperature": 0.7, "seed": number}
        answer = service.generate_in_turn(**fields, stream=kind % 2 == 0)
        answers.append((number, answer))
    return answers


def load(service: Service) -> list[tuple[int, Answer]]:
    with ThreadPoolExecutor(CLIENTS) as clients:
        futures = [clients.submit(one_client, service, client) for client in range(CLIENTS)]
        answers = [answer for future in futures for answer in future.result(timeout=300)]
    service.wait_until_idle()
    return answers


def settled(service: Service) -> Holdings:
    """What it holds when its connections are closed, within a few seconds."""
    holdings = service.holdings()
    for _ in range(100):
        time.sleep(0.1)
        now = service.holdings()
        if now.fds == holdings.fds:
            return now
        holdings = now
    return holdings


def test_load_loses_nothing_and_leaks_nothing(service: Service, direct: specrt.LLM) -> None:
    expected = {}
    for number in range(16):
        params = specrt.SamplingParams(temperature=0.7, max_tokens=24, seed=number)
        [expected[number]] = direct.generate([prompt(number)], params)
    before_metrics, idle = service.metrics(), settled(service)
    load(service)
    before = settled(service)
    answers = load(service)
    after = settled(service)
    assert len(answers) == CLIENTS * ROUNDS
    for number, answer in answers:
        assert answer.status == 200
        assert answer.body["token_ids"] == list(expected[number].token_ids)
        assert answer.body["text"] == expected[number].text
    assert after.fds == idle.fds
    assert after.threads == idle.threads
    assert after.rss_mb < before.rss_mb + 8
    metrics = service.metrics()
    assert metrics["specrt_refused_total"] > before_metrics["specrt_refused_total"]
    assert metrics['specrt_requests_total{finish_reason="cancelled"}'] > 0
    assert metrics['specrt_requests_total{finish_reason="failed"}'] == 0


def test_health_and_unknown_paths(service: Service) -> None:
    assert service.send("GET", "/health").body == {"status": "ok"}
    assert service.send("GET", "/nothing").status == 404
    assert service.send("GET", "/generate").status == 404


@pytest.mark.parametrize(("grace_ms", "reason"), [(60_000, "length"), (0, "cancelled")])
def test_sigterm_ends_what_is_in_flight(
    program: Path, bundle: Path, grace_ms: int, reason: str
) -> None:
    with Service(program, bundle, {"--grace-ms": grace_ms}) as service:
        count = 6
        has_begun = threading.Barrier(count + 1)

        def stream(number: int) -> list[dict[str, object]]:
            connection = service.connect()
            fields = b'{"prompt": [%d], "max_tokens": 400, "ignore_eos": true, "stream": true}'
            connection.request("POST", "/generate", fields % (number + 20))
            response = connection.getresponse()
            has_begun.wait()
            events = list(events_of(iter(response.readline, b"")))
            connection.close()
            return events

        with ThreadPoolExecutor(count) as clients:
            futures = [clients.submit(stream, number) for number in range(count)]
            has_begun.wait()
            service.process.send_signal(signal.SIGTERM)
            ends = [future.result(timeout=120)[-1]["finish_reason"] for future in futures]
        assert service.process.wait(timeout=60) == 0
        assert ends.count(reason) >= count - 1  # one may have been done before the signal
        with pytest.raises(OSError):
            service.send("GET", "/health")


def test_the_memory_that_is_needed_is_known_and_enough(program: Path, bundle: Path) -> None:
    words = [program, "--bundle", bundle, "--threads", "2", "--memory-limit"]
    run = subprocess.run([*words, "1"], capture_output=True, text=True, timeout=60)
    found = re.search(r"needs (\d+) bytes", run.stderr)
    assert found is not None
    needed = int(found[1])
    beside = 24 << 20  # code, stacks, and what the service itself holds
    with Service(program, bundle, {"--memory-limit": needed}) as service:
        prompt = [7 + i % 1000 for i in range(1900)]
        assert service.generate(prompt=prompt, max_tokens=100, temperature=0).status == 200
        held = service.holdings().rss_mb * (1 << 20)
        assert needed / 2 < held < needed + beside
        assert service.stop() == 0


def test_options_that_are_wrong_are_refused(program: Path, bundle: Path) -> None:
    for words, part in [
        ([], "--bundle FOLDER is needed"),
        (["--bundle", "/nonexistent"], "not a specrt bundle"),
        (["--bundle", bundle, "--queue", "0"], "--queue must be a number in [1, 4096]"),
        (["--bundle", bundle, "--colour", "red"], "unknown option --colour"),
        (["--bundle", bundle, "--memory-limit", "1000"], "more than the limit of 1000"),
    ]:
        run = subprocess.run([program, *words], capture_output=True, text=True, timeout=60)
        assert run.returncode == 1
        assert part in run.stderr

"""Starts the service, talks to it, and reads what it holds of the machine."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A status and the JSON of its body; events are joined to one such object."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Holdings:
    """What a process holds."""

    rss_mb: float
    fds: int
    threads: int


def events_of(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The events of a stream, which must end with [DONE]."""
    for line in lines:
        if line.strip() == b"data: [DONE]":
            return
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
    raise AssertionError("the stream broke off")


def joined(events: list[dict[str, Any]]) -> dict[str, Any]:
    """All events as the one answer that a request without a stream gets."""
    body = dict(events[-1])
    body["token_ids"] = [token for event in events for token in event["token_ids"]]
    body["text"] = "".join(event["text"] for event in events)
    return body


class Service:
    """A running service; leaving its context kills it if it still runs."""

    def __init__(self, program: Path, bundle: Path, options: Mapping[str, object]) -> None:
        words = [str(word) for pair in options.items() for word in pair]
        self.process = subprocess.Popen(
            [program, "--bundle", bundle, "--port", "0", "--threads", "2", *words],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        found = re.search(r":(\d+)$", self.process.stdout.readline().strip())
        assert found is not None
        self.port = int(found[1])

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def send(self, method: str, path: str, body: bytes = b"") -> Answer:
        """One request; the answer's body is JSON, a stream, or text under "text"."""
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            kind = response.headers.get("Content-Type", "")
            if kind == "text/event-stream":
                answer = joined(list(events_of(iter(response.readline, b""))))
            elif kind == "application/json":
                answer = json.loads(response.read())
            else:
                answer = {"text": response.read().decode()}
            return Answer(response.status, answer, dict(response.headers))

    def generate(self, **fields: object) -> Answer:
        return self.send("POST", "/generate", json.dumps(fields).encode())

    def generate_in_turn(self, **fields: object) -> Answer:
        """Comes again as long as the queue is full."""
        while (answer := self.generate(**fields)).status == 429:
            assert answer.headers["Retry-After"] == "1"
            time.sleep(0.05)
        return answer

    def leave_in_mid_stream(self, **fields: object) -> None:
        """Reads the first bytes of a stream and resets the connection."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("POST", "/generate", json.dumps({**fields, "stream": True}))
            response = connection.getresponse()
            if response.status == 200:
                response.readline()
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            if connection.sock is not None:
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def metrics(self) -> dict[str, float]:
        lines = self.send("GET", "/metrics").body["text"].splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 60
        while self.metrics()["specrt_active_requests"] > 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def holdings(self) -> Holdings:
        proc = Path("/proc") / str(self.process.pid)
        status = (proc / "status").read_text()
        rss = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert rss is not None
        return Holdings(
            rss_mb=int(rss[1]) / 1024,
            fds=len(list((proc / "fd").iterdir())),
            threads=len(list((proc / "task").iterdir())),
        )

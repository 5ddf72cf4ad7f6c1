"""specrt chat on a pseudo-terminal: line editing, Ctrl-C and Ctrl-D, history."""

import contextlib
import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt.build import build

CTRL_C, CTRL_D, CTRL_P = "\x03", "\x04", "\x10"
WAIT_SECONDS = 60
# The terminal becomes the child's controlling one, so that Ctrl-C is a signal.
START = (
    "import fcntl, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "from specrt.cli.main import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


class Terminal:
    """A child process on a pseudo-terminal, and what it has shown."""

    def __init__(self, words: list[str], state: Path) -> None:
        self._own, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *words],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            env=os.environ | {"TERM": "dumb", "XDG_STATE_HOME": str(state)},
        )
        os.close(other)
        self._shown = ""
        self.expect(r"/help lists commands.*\n> ")

    def type(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def interrupt(self, text: str) -> None:
        """Ctrl-C behind `text`, when the prompt surely waits: a signal before that comes too early
        for CPython's readline, which then notices it with the next key."""
        self.type(text)
        self.expect(text)
        time.sleep(0.3)
        self.type(CTRL_C)

    def _read(self, seconds: float) -> str:
        if not select.select([self._own], [], [], seconds)[0]:
            return ""
        try:
            return os.read(self._own, 65536).decode(errors="replace").replace("\r", "")
        except OSError:  # the child is gone
            return ""

    def expect(self, pattern: str) -> str:
        """Waits for `pattern`; returns what was shown up to its end since the last call."""
        end = time.monotonic() + WAIT_SECONDS
        while (found := re.search(pattern, self._shown, re.S)) is None:
            assert time.monotonic() < end, f"no {pattern!r} in {self._shown!r}"
            self._shown += self._read(0.1)
        shown, self._shown = self._shown[: found.end()], self._shown[found.end() :]
        return shown

    def status(self) -> int:
        """The exit status; what is shown until then is dropped."""
        end = time.monotonic() + WAIT_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < end, "it does not end"
            self._read(0.05)
        return self.process.returncode

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self._own)


Start = Callable[..., Terminal]


@pytest.fixture
def start(tiny_bundle: Path, tmp_path: Path) -> Iterator[Start]:
    opened: list[Terminal] = []

    def begin(*options: str, bundle: Path = tiny_bundle) -> Terminal:
        words = ["chat", str(bundle), "--threads", "1", *options]
        opened.append(Terminal(words, tmp_path / "state"))
        return opened[-1]

    yield begin
    for terminal in opened:
        terminal.close()


def test_turns_commands_and_ctrl_d(start: Start) -> None:
    terminal = start("--max-tokens", "8")
    terminal.type("Hello\r")
    assert "Hello\n" in terminal.expect(r"tokens/s.*\n> ")
    terminal.type("One\\\r")
    terminal.expect(r"\.\.\. ")
    terminal.type("Two\r")
    terminal.expect(r"tokens/s.*\n> ")
    terminal.type("/undo\r")
    terminal.expect(r"the last turn is dropped; 1 left.*\n> ")
    terminal.type(CTRL_D)
    assert terminal.status() == 0


def test_errors_do_not_end_the_chat(start: Start) -> None:
    terminal = start("--max-tokens", "8")
    terminal.type("/frobnicate\r")
    terminal.expect(r"there is no command /frobnicate; /help lists them.*\n> ")
    terminal.type("x" * 300 + "\r")
    terminal.expect(r"context of 256 leaves room for 255; this message was not added.*\n> ")
    terminal.type("Hello\r")
    terminal.expect(r"tokens/s.*\n> ")
    terminal.type("/exit\r")
    assert terminal.status() == 0


def test_ctrl_c_at_the_prompt_clears_the_line_and_twice_ends(start: Start) -> None:
    terminal = start("--max-tokens", "8")
    terminal.interrupt("a long thought")
    terminal.expect(r"Ctrl-C again, or Ctrl-D, ends the chat\)\n> ")
    terminal.type("/undo\r")  # what was typed before is not a part of it
    terminal.expect(r"there is no turn to drop.*\n> ")
    terminal.interrupt("one")
    terminal.expect(r"ends the chat\)\n> ")
    terminal.interrupt("two")
    assert terminal.status() == 0


def test_ctrl_c_cancels_the_answer_and_keeps_what_came(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("long")
    model = write_tiny_llama(folder / "model", TinyLlama(context=100_000, layers=1))
    bundle = build(model, out=folder / "bundle", progress=False, tune=False)
    terminal = start("--min-tokens", "90000", bundle=bundle)
    terminal.type("Talk\r")
    terminal.expect(r"Talk\n.{100}")
    terminal.type(CTRL_C)
    terminal.expect(r"\[cancelled; the answer so far is kept, /undo drops it\].*\n> ")
    terminal.type("/undo\r")
    terminal.expect(r"\[the last turn is dropped; 0 left\].*\n> ")
    terminal.type(CTRL_D)
    assert terminal.status() == 0


def test_history_comes_back_and_is_private(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "state" / "specrt" / "chat_history"
    first = start("--max-tokens", "8")
    first.type("/undo\r")
    first.expect(r"there is no turn to drop.*\n> ")
    first.type(CTRL_D)
    assert first.status() == 0
    assert file.read_text() == "/undo\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    second = start("--max-tokens", "8")
    second.type(CTRL_P + "\r")
    second.expect(r"there is no turn to drop.*\n> ")
    second.type(CTRL_D)
    assert second.status() == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_history_writes_nothing(start: Start, tmp_path: Path) -> None:
    terminal = start("--no-history")
    terminal.type("/undo\r")
    terminal.expect(r"there is no turn to drop.*\n> ")
    terminal.type(CTRL_D)
    assert terminal.status() == 0
    assert not (tmp_path / "state").exists()

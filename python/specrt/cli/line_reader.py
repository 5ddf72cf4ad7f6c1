"""Where the turns of a conversation come from: a terminal with line editing, or a pipe."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from specrt.xdg import xdg_folder

_PROMPT, _CONTINUED = "> ", "... "
_HISTORY_LINES = 1000


def history_file() -> Path:
    """The lines typed into `specrt chat`."""
    return xdg_folder("XDG_STATE_HOME", ".local/state") / "chat_history"


def piped_turns() -> Iterator[str]:
    """Every line of stdin."""

    def read(_prompt: str) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    with contextlib.suppress(EOFError):
        while True:
            yield _read_turn(read)


def typed_turns(history: Path | None) -> Iterator[str]:
    """Lines typed at a prompt until Ctrl-D, or Ctrl-C twice; Ctrl-C once clears the line."""
    with _line_editing(history):
        interrupts = 0
        while interrupts < 2:
            try:
                text = _read_turn(input)
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                interrupts += 1
                print("" if interrupts == 2 else "\n(Ctrl-C again, or Ctrl-D, ends the chat)")
                continue
            interrupts = 0
            yield text


def _read_turn(read: Callable[[str], str]) -> str:
    """One line, or several of which all but the last end with a backslash."""
    lines: list[str] = []
    try:
        while not lines or lines[-1].endswith("\\"):
            lines.append(read(_CONTINUED if lines else _PROMPT))
    except EOFError:
        if not lines:
            raise
    return "\n".join([line.removesuffix("\\") for line in lines[:-1]] + lines[-1:])


@contextlib.contextmanager
def _line_editing(history: Path | None) -> Iterator[None]:
    """Line editing for `input` where Python has readline; lines are kept in `history`."""
    try:
        import readline
    except ImportError:
        yield
        return
    if history is not None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for line in history.read_text(encoding="utf-8").splitlines():
                readline.add_history(line)
    try:
        yield
    finally:
        if history is not None:
            last = readline.get_current_history_length()
            first = max(1, last - _HISTORY_LINES + 1)
            items = (readline.get_history_item(i) or "" for i in range(first, last + 1))
            with contextlib.suppress(OSError):  # a chat does not fail for its history
                _write_private(history, "".join(item + "\n" for item in items))


def _write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, an older file of the name included."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)

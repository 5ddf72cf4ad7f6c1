"""Calls of the runtime that run while other Python threads run.

When the interpreter ends it ends daemon threads as they come back from such a call, in a way that
C++ does not survive. So at exit these calls are cancelled and waited for.
"""

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from specrt._core import Error

_LONGEST_WAIT = 60.0  # seconds at exit


class Running:
    """Knows the calls of the runtime that run now."""

    def __init__(self) -> None:
        self._ending = False
        self.forget()

    def forget(self) -> None:
        """In a forked process: the threads of the calls were left behind."""
        self._changed = threading.Condition()
        self._calls: set[object] = set()

    @property
    def ending(self) -> bool:
        """Whether the interpreter ends; a call that can be cancelled is to be."""
        return self._ending

    @contextmanager
    def call(self) -> Iterator[None]:
        """For the time of a call. Raises Error when the interpreter ends."""
        call = object()
        try:
            with self._changed:
                if self._ending:
                    raise Error("the interpreter is ending")
                self._calls.add(call)
            yield
        finally:
            with self._changed:
                self._calls.discard(call)
                self._changed.notify_all()

    def end(self) -> None:
        """Lets no call begin and waits for those that run."""
        with self._changed:
            self._ending = True
            self._changed.wait_for(lambda: not self._calls, _LONGEST_WAIT)


RUNNING = Running()
atexit.register(RUNNING.end)
os.register_at_fork(after_in_child=RUNNING.forget)

"""Guards around a submission's code while it runs: its standard output and its time limit."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

PRINT_KEPT = 20_000  # characters of a submission's output that are kept
PRINT_LIMIT = 10_000_000  # characters after which printing stops the call


class OutOfTime(BaseException):
    """Not an Exception, so that a submission's `except Exception` does not swallow it."""


class PrintedTooMuch(BaseException):
    """Not an Exception, for the same reason."""


class Printed(io.TextIOBase):
    """Replaces standard output: keeps the beginning, stops a flood."""

    def __init__(self) -> None:
        self.kept, self.length = "", 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.length += len(text)
        if len(self.kept) < PRINT_KEPT:
            self.kept += text[: PRINT_KEPT - len(self.kept)]
        if self.length > PRINT_LIMIT:
            raise PrintedTooMuch
        return len(text)


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise OutOfTime in the submission after this many seconds, if the platform and the thread allow it."""
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise OutOfTime

    def hold(*args: Any, **kwargs: Any) -> Any:
        signal.setitimer(signal.ITIMER_REAL, 0)  # a debugger may take as long as it likes
        return breakpoint_hook(*args, **kwargs)

    breakpoint_hook, sys.breakpointhook = sys.breakpointhook, hold
    handler = signal.signal(signal.SIGALRM, interrupt)
    # Again every second, in case the submission catches everything.
    others, _ = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    started = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        sys.breakpointhook = breakpoint_hook
        if others:  # another alarm, such as pytest-timeout's, goes on
            signal.setitimer(signal.ITIMER_REAL, max(others - (time.monotonic() - started), 0.001))

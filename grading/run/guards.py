"""What surrounds a submission's code while it runs: its standard streams, its time limit, and the ways out it lacks."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

PRINT_KEPT = 20_000  # characters of a submission's output that are kept
PRINT_LIMIT = 10_000_000  # bytes after which printing stops the call
WALL_FACTOR = 4.0  # a limit is in CPU seconds; a call may sleep, or wait for a busy machine, this many times as long


class Stopped(BaseException):
    """The grader ends the call. Not an Exception, so that a submission's `except Exception` does not swallow it."""


class OutOfTime(Stopped):
    """The call used up its CPU time, or its time on the clock."""


class PrintedTooMuch(Stopped):
    """The call printed more than anybody reads."""


class EndedProcess(Stopped):
    """The call tried to end the process: `os._exit`, `os.abort`."""


class ReadKeyboard(Exception):
    """The call read from the keyboard."""


# --- standard streams ---


class Printed(io.TextIOWrapper):
    """Replaces standard output, with a real buffer below: keeps the beginning, stops a flood."""

    def __init__(self) -> None:
        self.raw_bytes = _Beginning()
        super().__init__(self.raw_bytes, encoding="utf-8", errors="replace", newline="\n", write_through=True)  # type: ignore[arg-type]

    @property
    def kept(self) -> str:
        with contextlib.suppress(Exception):  # a submission may have closed or detached it
            self.flush()
        return self.raw_bytes.kept.decode("utf-8", "replace")[:PRINT_KEPT]


class _Beginning(io.BufferedIOBase):
    def __init__(self) -> None:
        self.kept, self.length = bytearray(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        data = bytes(data)
        self.length += len(data)
        self.kept += data[: max(0, 4 * PRINT_KEPT - len(self.kept))]
        if self.length > PRINT_LIMIT:
            raise PrintedTooMuch
        return len(data)

    def close(self) -> None:
        pass  # what was printed stays readable


class _NoKeyboard(io.TextIOBase):
    """Stands in for standard input."""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> str:
        raise ReadKeyboard

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        raise ReadKeyboard

    def fileno(self) -> int:
        raise ReadKeyboard


@contextlib.contextmanager
def streams(printed: Printed) -> Iterator[None]:
    """Standard output goes to `printed`; whatever reads standard input learns that nobody is there."""
    before = sys.stdin
    sys.stdin = _NoKeyboard()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        sys.stdin = before


# --- ways out ---


@contextlib.contextmanager
def no_way_out() -> Iterator[None]:
    """The process does not end because a submission says so: that would pass for the end of the run."""

    process, before = os.getpid(), (os._exit, os.abort)

    def leave(*status: int) -> None:
        if os.getpid() != process:  # a process that the submission forked may end as it likes
            before[0](*status or (1,))
        raise EndedProcess

    os._exit, os.abort = leave, leave  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit, os.abort = before
        if os.getpid() != process:  # a forked process that came back would answer beside its parent
            os._exit(1)


class Interrupts:
    """Tells a person's Ctrl-C from a KeyboardInterrupt that a submission raises."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> Interrupts:
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._before = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.seen = True
        if callable(self._before):
            self._before(number, frame)

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)


# --- time ---


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise OutOfTime in the submission after so many seconds of CPU time, or WALL_FACTOR times as many on the clock.

    Only in a main thread, and where the platform has timers.
    """
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        while frame is not None:
            if frame.f_globals.get("__name__") in ("pdb", "bdb"):
                return  # a debugger may take as long as it likes
            frame = frame.f_back
        raise OutOfTime

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGALRM, signal.SIGPROF)}
    started = time.monotonic()
    # Again every second, in case the submission catches everything.
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    others, _ = signal.setitimer(signal.ITIMER_REAL, WALL_FACTOR * seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        if others:  # another alarm, such as pytest-timeout's, goes on
            signal.setitimer(signal.ITIMER_REAL, max(others - (time.monotonic() - started), 0.001))

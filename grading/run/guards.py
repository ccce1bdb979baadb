"""What surrounds a submission's code while it runs: its standard streams, its time limit, and the ways out it lacks."""

from __future__ import annotations

import atexit
import contextlib
import io
import multiprocessing.context
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
    """The call tried to end the process: `os._exit`, `os.abort`, `os.kill` and the like."""


class ReadKeyboard(Exception):
    """The call read from the keyboard."""


class StartedAfresh(Exception):
    """The call started a Python process that would have to import the hand-in again."""


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
    """Standard output goes to `printed`; whatever reads standard input learns that nobody is there.

    The process's own streams stay open, whoever closes them.
    """
    before = sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
    own = [stream for stream in before[2:] if stream is not None]
    sys.stdin, sys.stdout = _NoKeyboard(), printed
    for stream in own:
        vars(stream)["close"] = stream.flush
    try:
        yield
    finally:
        for stream in own:
            vars(stream).pop("close", None)
        sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__ = before  # type: ignore[misc]


# --- ways out ---


@contextlib.contextmanager
def no_way_out() -> Iterator[None]:
    """The process does not end because a submission says so: that would pass for the end of the run.

    Against accidents and simple tricks: whoever is set on it finds another way, and is graded with `--isolate`.
    """
    process = os.getpid()
    doors = {name: getattr(os, name) for name in ("_exit", "abort", "execv", "execve", "kill") if hasattr(os, name)}
    register = atexit.register

    def barred(name: str) -> Callable[..., Any]:
        def leave(*args: Any) -> Any:
            if os.getpid() != process or (name == "kill" and not _is_fatal(*args)):
                return doors[name](*args)  # a process that the submission forked may end as it likes
            raise EndedProcess

        return leave

    def at_exit(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
        def later() -> None:
            with no_way_out(), contextlib.suppress(EndedProcess):
                function(*args, **kwargs)

        register(later)
        return function

    for name in doors:
        setattr(os, name, barred(name))
    atexit.register = at_exit  # type: ignore[assignment]
    try:
        yield
    finally:
        atexit.register = register
        for name, door in doors.items():
            setattr(os, name, door)
        if os.getpid() != process:  # a forked process that came back would answer beside its parent
            os._exit(1)


def _is_fatal(process: int, number: int) -> bool:
    """Whether the signal would end this process, or the one that started it."""
    if process > 0 and process not in (os.getpid(), os.getppid()):
        return False
    return number != 0 and (process == os.getppid() or not callable(signal.getsignal(number)))


@contextlib.contextmanager
def no_fresh_process() -> Iterator[None]:
    """A process that multiprocessing starts afresh can't import a hand-in: it dies, and its parent waits for it."""

    def refuse(process: Any) -> Any:
        raise StartedAfresh(process._start_method)

    kinds: list[Any] = [getattr(multiprocessing.context, name, None) for name in ("SpawnProcess", "ForkServerProcess")]
    before = [(kind, vars(kind)["_Popen"]) for kind in kinds if kind is not None]
    for kind, _ in before:
        kind._Popen = staticmethod(refuse)
    try:
        yield
    finally:
        for kind, popen in before:
            kind._Popen = popen


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

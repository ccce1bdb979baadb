"""The processes that a process has started, and theirs: found, ended, and kept from detaching themselves."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator

_DEATH_SIGNAL, _SUBREAPER = 1, 36  # of prctl(2)


def descendants(process: int) -> list[int]:
    """The processes below a process, itself left out; none where the system does not tell."""
    found: list[int] = []
    wanted = [process]
    while wanted:
        children = list(_children(wanted.pop()))
        found += children
        wanted += children
    return found


def _children(process: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{process}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{process}/task/{task}/children", "rb") as file:
                yield from map(int, file.read().split())


def end_descendants(process: int) -> None:
    """End every process below a process."""
    for _ in range(500):
        left = [each for each in descendants(process) if not _has_ended(each)]
        if not left:
            return
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: none forks while others are ended
            for each in left:
                with contextlib.suppress(OSError):
                    os.kill(each, number)
        time.sleep(0.002)


def _has_ended(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return True


def keep() -> None:
    """Go on in a child of this process, which becomes its keeper: whoever detaches itself from the child stays here.

    The keeper ends all that is left when the child ends, and then itself, in the same way; or when its own parent ends.
    Only Linux has keepers; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    keeper = os.getpid()
    _prctl(_SUBREAPER, 1)
    if (child := os.fork()) == 0:
        _prctl(_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)
        return
    signal.signal(signal.SIGTERM, lambda *_: _end_as(-signal.SIGKILL))
    _prctl(_DEATH_SIGNAL, signal.SIGTERM)
    os.closerange(3, 256)  # the pipes are the child's: with it they close
    while True:
        ended, status = os.wait()
        if ended == child:
            _end_as(os.waitstatus_to_exitcode(status))


def _end_as(status: int) -> None:
    """End with an exit status, or by a signal if it is negative."""
    import resource

    end_descendants(os.getpid())
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status if status >= 0 else 1)


def _prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)

"""The CPU time of this process and of its children, which does not depend on how busy the machine is."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grading.run.family import descendants

CHILDREN: set[int] = set()  # the ids of the running children that requests are sent to
_forgotten = 0.0  # CPU seconds of children that have ended, which the system does not count


def cpu_seconds() -> float:
    """So far: this process, its children that have ended, and, where the system tells, those that run."""
    return time.process_time() + _ended() + _forgotten + sum(map(family_seconds, CHILDREN))


@contextlib.contextmanager
def ending(child: int) -> Iterator[None]:
    """Around the end of a child: its time stays counted, even what the system forgets, as when bubblewrap is killed."""
    global _forgotten
    running, before = family_seconds(child), _ended()
    try:
        yield
    finally:
        CHILDREN.discard(child)
        _forgotten += max(0.0, running - (_ended() - before))


def _ended() -> float:
    """Of the children that have ended, as the system counts it."""
    times = os.times()
    return times.children_user + times.children_system


@dataclass
class Patience:
    """CPU seconds that may be spent."""

    seconds: float

    @property
    def over(self) -> bool:
        return self.seconds <= 0

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        started = cpu_seconds()
        try:
            yield
        finally:
            self.seconds -= cpu_seconds() - started


def family_seconds(child: int) -> float:
    """Of a child and of all that it has started, which in a sandbox includes the process that runs the requests."""
    ticks = sum(_ticks(process) for process in (child, *descendants(child)))
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0


def _ticks(process: int) -> int:
    """Of a process, and of its children that have ended."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{process}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return sum(map(int, fields[11:15]))
    return 0


def family_seconds_exactly(child: int) -> float:
    """The same to the microsecond, of all threads that run; at least what `family_seconds` says."""
    nanoseconds = 0
    for process in (child, *descendants(child)):
        with contextlib.suppress(OSError, ValueError, IndexError):
            for task in os.listdir(f"/proc/{process}/task"):
                nanoseconds += int(Path(f"/proc/{process}/task/{task}/schedstat").read_text().split()[0])
    return max(nanoseconds / 1e9, family_seconds(child))

"""The CPU time of this process and of its children, which does not depend on how busy the machine is."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHILDREN: set[int] = set()  # the ids of the running children that requests are sent to


def cpu_seconds() -> float:
    """So far: this process, its children that have ended, and, where the system tells, those that run."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system + sum(map(family_seconds, CHILDREN))


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


def family_seconds(process: int) -> float:
    """The CPU time of a running process and of all its running descendants, where the system tells."""
    return sum(map(_of, family(process)))


def family(process: int) -> set[int]:
    """A process and all its descendants, where the system tells."""
    parents = {int(each.name): _parent(each) for each in Path("/proc").glob("[0-9]*")}
    found = {process}
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _parent(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((folder / "stat").read_text("ascii", "replace").rpartition(")")[2].split()[1])
    return -1


def _of(child: int) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{child}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0

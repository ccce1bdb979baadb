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
    return time.process_time() + times.children_user + times.children_system + sum(map(_of, CHILDREN))


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


def _of(child: int) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{child}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0

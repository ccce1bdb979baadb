"""Limits on a submission's processes taken together: a cgroup where one can be made, else a thread that watches.

What a process may allocate for itself is limited in the process (`grading.run.limits`), which gives a MemoryError with
a line. This catches the rest: shared memory, files in memory, many processes, what is left behind.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from grading.run.cpu import family
from grading.run.sandbox import SCRATCH_MB

PROCESSES = 512  # with their threads
LOOK_SECONDS = 0.1
MARK = "WHETSTONE_CHILD"  # in the environment of the child and of all that it starts
_CGROUPS = Path("/sys/fs/cgroup")
_numbers = itertools.count(1)


class Cgroup:
    """A cgroup of either version. OSError if none can be made."""

    def __init__(self, memory_mb: int) -> None:
        name = f"whetstone-{os.getpid()}-{next(_numbers)}"
        self.unified = (_CGROUPS / "cgroup.controllers").exists()
        folders = [_CGROUPS] if self.unified else [_CGROUPS / "memory", _CGROUPS / "pids"]
        self.folders = [folder / name for folder in folders]
        made: list[Path] = []
        try:
            for folder in self.folders:
                folder.mkdir()
                made.append(folder)
            limits = {"pids.max": str(PROCESSES)}
            if memory_mb:
                limits["memory.max" if self.unified else "memory.limit_in_bytes"] = str(memory_mb << 20)
            for file, value in limits.items():
                (next(folder / file for folder in self.folders if (folder / file).exists())).write_text(value)
            if memory_mb:  # no swapping instead of the limit, where swap is counted
                swap = self.folders[0] / ("memory.swap.max" if self.unified else "memory.memsw.limit_in_bytes")
                with contextlib.suppress(OSError):
                    swap.write_text("0" if self.unified else str(memory_mb << 20))
        except (OSError, StopIteration) as error:
            for folder in made:
                folder.rmdir()
            raise OSError(f"no cgroup: {error}") from None

    def add(self, process: int) -> None:
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(process))

    @property
    def overran(self) -> bool:
        """Whether the kernel ended a process because the memory was used up."""
        file = self.folders[0] / ("memory.events" if self.unified else "memory.oom_control")
        with contextlib.suppress(OSError):
            counts = dict(line.split() for line in file.read_text().splitlines())
            return counts.get("oom_kill", "0") != "0"
        return False

    def processes(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(line) for line in (self.folders[0] / "cgroup.procs").read_text().split()]
        return []

    def end(self) -> None:
        """Kill all that is left in it, and remove it."""
        deadline = time.monotonic() + 5
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.005)
        for folder in self.folders:
            for _ in range(100):  # the kernel lets go of a cgroup a little after its last process
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)


# Starts a command once it is told to, so that it can be put into a cgroup before.
WAITING = ("/bin/sh", "-c", 'read -r _; exec "$@" </dev/null', "sh")


@functools.cache
def has_cgroups() -> bool:
    """Whether a cgroup can be made here. It was tried."""
    try:
        Cgroup(1024).end()
    except OSError:
        return False
    return True


class Watch:
    """Without a cgroup: looks at the processes ten times a second, and kills them all if they use too much."""

    def __init__(self, token: str, root: int, folder: Path, memory_mb: int) -> None:
        self.token, self.root, self.folder, self.memory_mb = f"{MARK}={token}".encode(), root, folder, memory_mb
        self.overran = False
        self._since = time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            used = sum(map(_memory, self.processes())) + _written(Path("/dev/shm"), self._since)
            full = _written(self.folder) > SCRATCH_MB << 20
            if (self.memory_mb and used > self.memory_mb << 20) or full:
                self.overran = True
                self._kill()

    def processes(self) -> list[int]:
        """The child, its descendants, and whatever has inherited its environment."""
        known = family(self.root)
        everybody = (int(each.name) for each in Path("/proc").glob("[0-9]*"))
        return [process for process in everybody if process in known or self._has_mark(process)]

    def _has_mark(self, process: int) -> bool:
        with contextlib.suppress(OSError):
            return self.token in Path(f"/proc/{process}/environ").read_bytes()
        return False

    def _kill(self) -> None:
        for process in self.processes():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._kill()


def _memory(process: int) -> int:
    """Bytes, of which what several processes share is divided among them."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text("ascii", "replace").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def _written(folder: Path, since: float = 0.0) -> int:
    """Bytes of this account's files below a folder that were changed since then."""
    return sum(status.st_blocks * 512 for status in _files(folder) if status.st_mtime >= since)


def _files(folder: Path) -> Iterator[os.stat_result]:
    accounts = {os.getuid(), 65534}
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(path, name))
                if status.st_uid in accounts:
                    yield status

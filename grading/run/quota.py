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
from pathlib import Path

from grading.run.family import descendants, end_descendants
from grading.run.sandbox import SCRATCH_MB

PROCESSES = 512  # with their threads
LOOK_SECONDS = 0.1
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
    def overran(self) -> str:
        """ "memory" if the kernel has ended a process because the memory was used up."""
        file = self.folders[0] / ("memory.events" if self.unified else "memory.oom_control")
        with contextlib.suppress(OSError):
            counts = dict(line.split() for line in file.read_text().splitlines())
            return "memory" if counts.get("oom_kill", "0") != "0" else ""
        return ""

    def processes(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(line) for line in (self.folders[0] / "cgroup.procs").read_text().split()]
        return []

    def end(self) -> None:
        """Kill all that is left in it, and remove it."""
        with contextlib.suppress(OSError):
            (self.folders[-1] / "pids.max").write_text("0")  # none forks while others are ended
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
    """Without a cgroup: looks at the processes many times a second, and ends them all if together they use too much."""

    def __init__(self, root: int, folder: Path, memory_mb: int) -> None:
        self.root, self.folder, self.memory = root, folder, memory_mb << 20
        self.overran = ""  # what was used up: "memory", "processes" or "disk"
        self._shared_before = set(_shared())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            processes = [self.root, *descendants(self.root)]
            if overran := self._exceeded(processes):
                self.overran = overran
                end_descendants(self.root)
                with contextlib.suppress(OSError):
                    os.kill(self.root, signal.SIGKILL)

    def _exceeded(self, processes: list[int]) -> str:
        if sum(_field(process, "status", "Threads") for process in processes) > PROCESSES:
            return "processes"
        if _written(self.folder) > SCRATCH_MB << 20:
            return "disk"
        files = sum(size for name, size in _shared().items() if name not in self._shared_before)
        files += _in_own_files(processes[-1])
        # What processes share counts for each of them at first, and exactly only where that would be too much.
        for file, field in (("status", "VmRSS"), ("smaps_rollup", "Pss")):
            used = sum(_field(process, file, field) << 10 for process in processes)
            if not self.memory or files + used <= self.memory:
                return ""
        return "memory"

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        end_descendants(self.root)


def _field(process: int, file: str, name: str) -> int:
    """A number from one of a process's files in /proc."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{process}/{file}", "rb") as lines:
        for line in lines:
            if line.startswith(name.encode() + b":"):
                return int(line.split()[1])
    return 0


def _shared() -> dict[str, int]:
    """The files of shared memory with their bytes."""
    found = {}
    with contextlib.suppress(OSError), os.scandir("/dev/shm") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                found[entry.name] = entry.stat(follow_symlinks=False).st_blocks * 512
    return found


def _in_own_files(process: int) -> int:
    """The bytes in the file systems that a sandbox has in memory, if the process is in one."""
    used = 0
    with contextlib.suppress(OSError):
        if os.readlink(f"/proc/{process}/ns/mnt") != os.readlink("/proc/self/ns/mnt"):
            for name in ("tmp", "dev/shm"):
                system = os.statvfs(f"/proc/{process}/root/{name}")
                used += (system.f_blocks - system.f_bfree) * system.f_frsize
    return used


def _written(folder: Path) -> int:
    """The bytes below a folder."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
    return total

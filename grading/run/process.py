"""A child process as its parent sees it: started, asked, timed out, replaced."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, BinaryIO

from grading.course.trees import Tree
from grading.data.request import Process, Request
from grading.data.result import Result, Trouble
from grading.run.cpu import CHILDREN, ending, family_seconds, family_seconds_exactly
from grading.run.family import end_descendants
from grading.run.guards import WALL_FACTOR
from grading.run.pipe import write_message
from grading.run.quota import LOOK_SECONDS, PROCESSES, WAITING, Cgroup, Watch
from grading.run.relay import Outside
from grading.run.sandbox import (
    OPEN,
    PROJECT,
    SCRATCH_MB,
    WRITABLE_DEVICES,
    Sandbox,
    clean_environment,
    python_files,
    system_files,
)

STARTUP_SECONDS = 120.0  # for a child to import torch, on the slowest machine
GRACE_SECONDS = 2.0  # beyond a test's time limit, for the child to report itself where it was
KEPT_OUTPUT = 20_000
MESSAGE_KEPT = 300
LARGEST_ANSWER = 512 << 20  # bytes


class Place:
    """A child, started on first use and restarted after it has died."""

    def __init__(self, process: Process, python: Path | None, sandbox: Sandbox = OPEN, port: int | None = None) -> None:
        """`port`: of the model's server, the only one on this machine that the child reaches in a sandbox."""
        self.process, self.python, self.sandbox, self.port = process, python, sandbox, port
        self._child: Child | None = None

    def run(self, request: Request, tree: Tree, exercise: str) -> Result:
        if self.python is not None and not self.python.exists():
            message = f"{tree.name} needs its own environment: make {tree.name}"
            return Result(trouble=Trouble("load", message, bases=("ImportError",)))
        if self._child is None:
            try:
                self._child = Child(self.process, self.python or Path(sys.executable), self.sandbox, self.port)
            except Gone as gone:
                raise RuntimeError(f"the child process did not start: {gone}") from None
        whose = {
            "name": tree.name,
            "roots": [str(root) for root in tree.roots],
            "library": tree.library,
            "stranger": tree.stranger,
            "exercise": exercise,
        }
        try:
            started = time.monotonic()
            messages = json.dumps(whose).encode(), request.encode()
            before = self._child.spent() if request.timed else 0.0
            answer = self._child.ask(*messages, seconds=WALL_FACTOR * request.seconds, cpu=request.seconds)
            spent = self._child.spent() - before if request.timed else 0.0
            return replace(Result.decode(answer, request, time.monotonic() - started), spent=spent)
        except Gone as gone:
            printed = self._child.output()
            self.close()
            return Result(trouble=gone.trouble(request.seconds, self.sandbox.memory_mb), printed=printed)
        except ValueError as error:
            self.close()
            message = f"the submission interfered with its answer to the grader, which can't be used ({error})"
            return Result(trouble=Trouble("died", message[:MESSAGE_KEPT]))

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


def set_environment(environment: MutableMapping[str, str], process: Process, folder: str) -> None:
    for name, value in process.environment:
        environment.pop(name, None)
        if value is not None:
            environment[name] = value.replace("{folder}", folder)


class Gone(Exception):
    """The child has not answered and will not."""

    def __init__(self, how: str, status: int | None, output: str) -> None:
        super().__init__(f"{how} {status if status is not None else ''}\n{output}".strip())
        self.how, self.status, self.output = how, status, output

    def trouble(self, seconds: float, memory_mb: int) -> Trouble:
        if self.how == "time":
            return Trouble("time", f"did not finish within {seconds:g} s, could not be interrupted and was killed")
        if self.how == "processes":
            return Trouble("died", f"had more than {PROCESSES} processes and threads at once and was killed")
        if self.how == "disk":
            return Trouble("died", f"wrote more than {SCRATCH_MB} MB and was killed")
        told = any(word in self.output for word in ("DefaultCPUAllocator", "bad_alloc", "MemoryError"))
        if told or self.how == "memory":
            return Trouble("memory", f"ran out of memory (the limit is {memory_mb} MB, see --memory-limit)")
        if self.status is not None and self.status < 0:
            name = signal.Signals(-self.status).name
            cause = {"SIGSEGV": " (a segmentation fault)", "SIGKILL": " (perhaps it ran out of memory)"}.get(name, "")
            return Trouble("died", f"the process was ended by {name}{cause}")
        return Trouble("died", f"the process exited with status {self.status} (os._exit, or a library that quits)")


class Child:
    def __init__(self, process: Process, python: Path, sandbox: Sandbox, port: int | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="whetstone-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        self.sandbox = sandbox
        self._cgroup: Cgroup | None = None
        self._watch: Watch | None = None
        self._relay: Outside | None = None
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        inside = sandbox.folder(folder)
        kept = clean_environment(inside) if sandbox.kind else dict(os.environ)
        environment = {**kept, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
        set_environment(environment, process, inside)
        if sandbox.kind == "bwrap" and port is not None:
            self._relay = Outside(folder, port)
        command = [str(python), "-P", "-m", "grading.run.child", str(theirs_in), str(theirs_out)]
        (copies := folder / "copies").mkdir()
        command = sandbox.command(command, python, self._relay.path if self._relay else None, copies)
        if not any(copies.iterdir()):
            copies.rmdir()  # where it is the child's own folder, it is to be empty
        if sandbox.kind:
            with contextlib.suppress(OSError):
                self._cgroup = Cgroup(sandbox.memory_mb)
                command = [*WAITING, *command]
        account: dict[str, Any] = {}
        if (user := sandbox.user(python)) is not None:
            os.chown(folder, user, user)
            account = {"user": user, "group": user, "extra_groups": []}
        self._process = subprocess.Popen(
            command,
            **account,
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.PIPE if self._cgroup else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,  # so that processes started by the submission can be killed too
        )
        if self._cgroup is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # a child that is gone already is noticed below
                self._cgroup.add(self._process.pid)
                self._process.stdin.write(b"\n")
                self._process.stdin.close()
        CHILDREN.add(self._process.pid)
        os.close(theirs_in)
        os.close(theirs_out)
        limited = self._cgroup is not None  # in memory and processes; a sandbox of bwrap's also in disk
        if sandbox.kind and sys.platform.startswith("linux") and not (limited and sandbox.kind == "bwrap"):
            self._watch = Watch(self._process.pid, folder, 0 if limited else sandbox.memory_mb)
        self._to: BinaryIO = os.fdopen(ours_out, "wb")
        self._from = ours_in
        self._printed = bytearray()
        assert self._process.stdout is not None
        self._drain = threading.Thread(target=self._keep_beginning, args=(self._process.stdout,), daemon=True)
        self._drain.start()
        setup = {
            "forbidden": [str(root) for root in sandbox.forbidden],
            "readable": [str(path) for path in sandbox.readable],
            "memory_mb": sandbox.memory_mb,
            "loopback": process.loopback or bool(sandbox.kind),
            "limited": bool(sandbox.kind),
            "kept": sandbox.kind in ("landlock", "child"),
            "relay": port if self._relay is not None else None,
            "landlock": {
                "readable": [*map(str, [*python_files(python), *sandbox.readable, *system_files()])],
                "listable": [str(path) for path in sandbox.listable],
                "writable": [str(folder), *WRITABLE_DEVICES],
                "port": port,
            }
            if sandbox.kind == "landlock"
            else None,
        }
        self.ask(json.dumps(setup).encode(), seconds=STARTUP_SECONDS)

    def _keep_beginning(self, pipe: IO[bytes]) -> None:
        while chunk := pipe.read1(65536):  # type: ignore[attr-defined]
            self._printed += chunk[: max(0, KEPT_OUTPUT - len(self._printed))]

    def spent(self) -> float:
        """CPU seconds so far."""
        return family_seconds_exactly(self._process.pid)

    def output(self) -> str:
        return self._printed.decode("utf-8", "replace")

    def ask(self, *messages: bytes, seconds: float, cpu: float = math.inf) -> bytes:
        """The answer to all of these messages. Gone if there is none within so many seconds, on the clock or of CPU
        time, and a little more."""
        started = time.monotonic()
        deadline = started + seconds + GRACE_SECONDS
        self._spent = (started + cpu, family_seconds(self._process.pid) + cpu + GRACE_SECONDS)
        try:
            for message in messages:
                write_message(self._to, message)
        except BrokenPipeError:
            raise self._gone("died") from None
        size = int.from_bytes(self._read(8, deadline), "little")
        if size > LARGEST_ANSWER:
            raise ValueError(f"{size:,} bytes, more than {LARGEST_ANSWER >> 20} MB")
        answer = self._read(size, deadline)
        if self._overran:  # one of several processes was ended; the others may have gone on without it
            raise self._gone("died")
        return answer

    @property
    def _overran(self) -> str:
        """What the child and all that it has started used up together; empty for nothing."""
        return next((limit.overran for limit in (self._cgroup, self._watch) if limit and limit.overran), "")

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            while len(data) < size:
                left = deadline - time.monotonic()
                if left <= 0 or self._used_up():
                    raise self._gone("time")
                if not selector.select(min(left, LOOK_SECONDS)):
                    if self._overran:  # one of several processes was ended, for which the others may wait
                        raise self._gone("died")
                    continue
                chunk = os.read(self._from, min(size - len(data), 1 << 20))
                if not chunk:
                    raise self._gone("died")
                data += chunk
        return bytes(data)

    def _used_up(self) -> bool:
        """Whether the CPU time of this request is over, which can't be before as much has passed on the clock."""
        earliest, seconds = self._spent
        return time.monotonic() > earliest and family_seconds(self._process.pid) > seconds

    def _gone(self, how: str) -> Gone:
        if how == "died" and not self._overran:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._drain.join(1)
        how = self._overran or how
        status = self._process.poll()
        if self.sandbox.kind == "bwrap" and status is not None and status > 128:  # as a shell says it
            status = 128 - status
        return Gone(how, status, self.output())

    def kill(self) -> None:
        with ending(self._process.pid):
            if self.sandbox.kind:
                end_descendants(self._process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for each in (self._cgroup, self._watch):
            if each is not None:
                each.end()
        if self._relay is not None:
            self._relay.close()
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        os.close(self._from)
        self._drain.join(1)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()

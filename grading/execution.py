"""Where requests are performed: in this process, or in a child that can be limited, killed and not trusted."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
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
from typing import IO, BinaryIO, Protocol

from grading.request import Process, Request, Result, Trouble
from grading.trees import Tree
from grading.worker import write_message

STARTUP_SECONDS = 120.0  # for a child to import torch, on the slowest machine
GRACE_SECONDS = 2.0  # past a test's time limit, for the child to say itself where it was
KEPT_OUTPUT = 20_000


class Executor(Protocol):
    def perform(self, request: Request, tree: Tree, exercise: str) -> tuple[Result, BaseException | None]:
        """The result, and the submission's own exception where a debugger could use it."""
        ...

    def close(self) -> None: ...


def perform(executor: Executor, request: Request, tree: Tree, exercise: str) -> tuple[Result, BaseException | None]:
    """What the executor observes, and what the request's model heard meanwhile."""
    if request.model is None:
        return executor.perform(request, tree, exercise)
    request.model.begin()
    result, error = executor.perform(request, tree, exercise)
    return replace(result, heard=request.model.heard()), error


class InProcess:
    """Fast, and a debugger can step into the submission; a crash takes the run with it.

    A request that wants a process of its own gets one, shared by all trees. `live` leaves the terminal to the
    submission and keeps everything here, for a debugger.
    """

    def __init__(self, live: bool = False) -> None:
        self.live = live

    def perform(self, request: Request, tree: Tree, exercise: str) -> tuple[Result, BaseException | None]:
        if tree.python or (request.process is not None and not self.live):
            return _shared(request.process or Process(), tree.python).perform(request, tree, exercise), None
        from grading.perform import perform

        if request.process is not None:
            _set_environment(os.environ, request.process, _own_folder())
        return perform(request, tree, exercise, live=self.live)

    def close(self) -> None:
        pass


class Isolated:
    """One child at a time, for one exercise; a child that dies or is killed is replaced before the next request."""

    def __init__(self, forbidden: tuple[Path, ...], memory_mb: int) -> None:
        self.forbidden, self.memory_mb = forbidden, memory_mb
        self._place: _Place | None = None
        self._serves: tuple[Tree, str, Process | None] | None = None

    def perform(self, request: Request, tree: Tree, exercise: str) -> tuple[Result, BaseException | None]:
        if self._place is None or self._serves != (tree, exercise, request.process):
            self.close()
            forbidden = tuple(root for root in self.forbidden if not _inside(tree, root))
            self._place = _Place(request.process or Process(), tree.python, forbidden, self.memory_mb)
            self._serves = (tree, exercise, request.process)
        return self._place.perform(request, tree, exercise), None

    def close(self) -> None:
        if self._place is not None:
            self._place.close()
            self._place = None


@functools.cache
def _shared(process: Process, python: Path | None) -> _Place:
    """The child of this process in which requests of every tree are performed: frameworks are imported once."""
    place = _Place(process, python)
    atexit.register(place.close)
    return place


@functools.cache
def _own_folder() -> str:
    folder = tempfile.TemporaryDirectory(prefix="whetstone-")
    atexit.register(folder.cleanup)
    return folder.name


class _Place:
    """A child, started when it is first needed and again after it has died."""

    def __init__(
        self, process: Process, python: Path | None, forbidden: tuple[Path, ...] = (), memory_mb: int = 0
    ) -> None:
        self.process, self.python, self.forbidden, self.memory_mb = process, python, forbidden, memory_mb
        self._child: _Child | None = None

    def perform(self, request: Request, tree: Tree, exercise: str) -> Result:
        if self.python is not None and not self.python.exists():
            message = f"{tree.name} needs an environment of its own: make {tree.name}"
            return Result(trouble=Trouble("load", message, bases=("ImportError",)))
        if self._child is None:
            setup = {
                "forbidden": [str(root) for root in self.forbidden],
                "memory_mb": self.memory_mb,
                "loopback": self.process.loopback,
            }
            try:
                self._child = _Child(setup, self.process, self.python)
            except _Gone as gone:
                raise RuntimeError(f"the child process did not start: {gone}") from None
        whose = {
            "name": tree.name,
            "roots": [str(root) for root in tree.roots],
            "library": tree.library,
            "exercise": exercise,
        }
        try:
            seconds = request.seconds + GRACE_SECONDS
            return Result.decode(self._child.ask(json.dumps(whose).encode(), request.encode(), seconds=seconds))
        except _Gone as gone:
            printed = self._child.output()
            self.close()
            return Result(trouble=gone.trouble(request.seconds, self.memory_mb), printed=printed)
        except ValueError:
            self.close()
            message = "the submission wrote to the grader's pipe: its answer cannot be read"
            return Result(trouble=Trouble("died", message))

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


def _set_environment(environment: MutableMapping[str, str], process: Process, folder: str) -> None:
    for name, value in process.environment:
        environment.pop(name, None)
        if value is not None:
            environment[name] = value.replace("{folder}", folder)


def _inside(tree: Tree, root: Path) -> bool:
    """Whether the graded tree itself lies there: grading `solutions` must be able to read them."""
    return any(each.is_relative_to(root) for each in tree.roots)


class _Gone(Exception):
    """The child has not answered and will not."""

    def __init__(self, how: str, status: int | None, output: str) -> None:
        super().__init__(f"{how} {status if status is not None else ''}\n{output}".strip())
        self.how, self.status, self.output = how, status, output

    def trouble(self, seconds: float, memory_mb: int) -> Trouble:
        if self.how == "time":
            return Trouble(
                "time", f"did not finish within {seconds:g} s and did not let itself be interrupted; it was killed"
            )
        if "DefaultCPUAllocator" in self.output or "bad_alloc" in self.output or "MemoryError" in self.output:
            return Trouble("memory", f"ran out of memory (the limit is {memory_mb} MB, see --memory-limit)")
        if self.status is not None and self.status < 0:
            name = signal.Signals(-self.status).name
            what = {"SIGSEGV": "a segmentation fault", "SIGKILL": "killed, perhaps for its memory"}.get(name, "a crash")
            return Trouble("died", f"the process died of {name}: {what}")
        return Trouble(
            "died", f"the process ended itself with exit status {self.status} (os._exit, or a library that quits)"
        )


class _Child:
    def __init__(self, setup: dict[str, object], process: Process, python: Path | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="whetstone-")
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        _set_environment(environment, process, self._folder.name)
        self._process = subprocess.Popen(
            [str(python or sys.executable), "-P", "-m", "grading.worker", str(theirs_in), str(theirs_out)],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._folder.name,
            env=environment,
            start_new_session=True,  # so that what the submission starts can be killed with it
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._to: BinaryIO = os.fdopen(ours_out, "wb")
        self._from = ours_in
        self._printed = bytearray()
        assert self._process.stdout is not None
        self._drain = threading.Thread(target=self._keep_beginning, args=(self._process.stdout,), daemon=True)
        self._drain.start()
        self.ask(json.dumps(setup).encode(), seconds=STARTUP_SECONDS)

    def _keep_beginning(self, pipe: IO[bytes]) -> None:
        while chunk := pipe.read1(65536):  # type: ignore[attr-defined]
            self._printed += chunk[: max(0, KEPT_OUTPUT - len(self._printed))]

    def output(self) -> str:
        return self._printed.decode("utf-8", "replace")

    def ask(self, *messages: bytes, seconds: float) -> bytes:
        """The answer to all of them. _Gone where there is none in time."""
        deadline = time.monotonic() + seconds
        try:
            for message in messages:
                write_message(self._to, message)
        except BrokenPipeError:
            raise self._gone("died") from None
        head = self._read(8, deadline)
        return self._read(int.from_bytes(head, "little"), deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            while len(data) < size:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise self._gone("time")
                chunk = os.read(self._from, min(size - len(data), 1 << 20))
                if not chunk:
                    raise self._gone("died")
                data += chunk
        return bytes(data)

    def _gone(self, how: str) -> _Gone:
        if how == "died":
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._drain.join(1)
        return _Gone(how, self._process.poll(), self.output())

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        os.close(self._from)
        self._drain.join(1)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()

"""Where requests run: in this process, or in an untrusted child that can be limited and killed."""

from __future__ import annotations

import atexit
import functools
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from grading.course.trees import Tree
from grading.data.request import Process, Request
from grading.data.result import Result
from grading.run.process import Place, set_environment
from grading.run.sandbox import PROJECT, Sandbox
from grading.run.view import files_of, named_in


class Executor(Protocol):
    def run(self, request: Request, tree: Tree, exercise: str) -> tuple[Result, BaseException | None]:
        """The result, and the submission's own exception if a debugger could use it."""
        ...

    def close(self) -> None: ...


def run(executor: Executor, request: Request, tree: Tree, exercise: str) -> tuple[Result, BaseException | None]:
    """Run a request. The result includes what the request's model heard meanwhile."""
    if request.model is None:
        return executor.run(request, tree, exercise)
    request.model.begin()
    result, error = executor.run(request, tree, exercise)
    return replace(result, heard=request.model.heard()), error


class InProcess:
    """Fast, and a debugger can step into the submission; but a crash ends the whole run.

    A request that requires its own process gets one, shared by all trees. `live` leaves the terminal to the submission
    and keeps everything in this process, for a debugger.
    """

    def __init__(self, live: bool = False) -> None:
        self.live = live

    def run(self, request: Request, tree: Tree, exercise: str) -> tuple[Result, BaseException | None]:
        if tree.python or (request.process is not None and not self.live):
            return _shared(request.process or Process(), tree.python).run(request, tree, exercise), None
        from grading.run.observer import observe

        if request.process is not None:
            set_environment(os.environ, request.process, _own_folder())
        return observe(request, tree, exercise, live=self.live)

    def close(self) -> None:
        pass


class Isolated:
    """One child at a time, for one exercise; a child that dies or is killed is replaced before the next request."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._port: int | None = None  # of the model's server, once a request had a model
        self._place: Place | None = None
        self._named: set[Path] = set()  # what the requests so far have named
        self._serves: tuple[object, ...] | None = None

    def run(self, request: Request, tree: Tree, exercise: str) -> tuple[Result, BaseException | None]:
        if request.model is not None:
            self._port = request.model.port
        self._named |= set(named_in(request))
        serves = (tree, exercise, request.process, self._port, len(self._named))
        if self._place is None or self._serves != serves:
            self.close()
            files = files_of(tree, (*self.sandbox.forbidden, PROJECT))
            sandbox = replace(
                self.sandbox, readable=(*self.sandbox.readable, *files, *sorted(self._named)), listable=tree.roots
            )
            self._place = Place(request.process or Process(), tree.python, sandbox, self._port)
            self._serves = serves
        return self._place.run(request, tree, exercise), None

    def close(self) -> None:
        if self._place is not None:
            self._place.close()
            self._place = None


@functools.cache
def _shared(process: Process, python: Path | None) -> Place:
    """A child that runs the requests of every tree, so that frameworks are imported only once."""
    place = Place(process, python)
    atexit.register(place.close)
    return place


@functools.cache
def _own_folder() -> str:
    folder = tempfile.TemporaryDirectory(prefix="whetstone-")
    atexit.register(folder.cleanup)
    return folder.name

"""What else a submission can be asked, when known mistakes look alike in a failing test.

The questions are the requests that the exercise's graded tests make of the solution, all of them, whichever tests were
selected. They are collected when they are needed, and once for all submissions that a process grades.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from grading.ask import marks
from grading.ask.draw import Draw
from grading.ask.got import Got
from grading.ask.llm import ScriptedModel
from grading.ask.submission import Known, Submission
from grading.course.trees import find_tree
from grading.data.request import Request
from grading.data.result import Result
from grading.run.cpu import cpu_seconds
from grading.run.executors import Executor, InProcess, run
from grading.session.collect import GradedModule
from grading.session.items import record_id

if TYPE_CHECKING:
    from grading.mistakes.bank import Mistake

SEED = 0  # of the questions' inputs, whatever the run's --grading-seed
PER_TEST = 8  # requests of one test that become questions
SECONDS = 5.0  # for an answer
COLLECTING = 30.0  # CPU seconds for running the tests on the solution

_ELSEWHERE = {"speed", "benchmark", "gpu"}  # fixtures of tests whose requests are measured, or need a GPU


class _Enough(BaseException):
    """The test has asked enough."""


class _Recorder(Submission):
    """The solution, as a test sees it."""

    def ask(self, request: Request) -> Got:
        if len(self.observed) >= PER_TEST:
            raise _Enough
        return super().ask(request)


class Questions:
    """The requests of the graded tests of one exercise."""

    def __init__(self, module: GradedModule) -> None:
        self._module = module
        self._items = [each for each in module.collect() if isinstance(each, pytest.Function)]
        self._collected: dict[str, list[Request]] = {}
        self._used = 0.0

    def about(self, names: set[str]) -> Iterator[Request]:
        """All questions, those of tests that mention one of these names first."""
        for item in sorted(self._items, key=lambda item: not self._mentions(item, names)):
            yield from self._of(item)

    def _mentions(self, item: pytest.Function, names: set[str]) -> bool:
        source = _source(inspect.unwrap(item.function))
        return any(name in source for name in names)

    def _of(self, item: pytest.Function) -> list[Request]:
        if item.name not in self._collected:
            if self._used > COLLECTING:
                return []
            started = cpu_seconds()
            self._collected[item.name] = self._collect(item)
            self._used += cpu_seconds() - started
        return self._collected[item.name]

    def _collect(self, item: pytest.Function) -> list[Request]:
        if _ELSEWHERE & set(item.fixturenames) or marks.at_most_of(item) or marks.missing_of(item):
            return []
        module = self._module
        draw = Draw(SEED, record_id(item), "cpu")
        submission = _Recorder(
            find_tree(module.course, "solutions", module.course.root),
            module.exercise,
            InProcess(),
            Known(),
            seed=draw.seed,
            seconds=marks.seconds_of(item),
            process=marks.process_of(item),
        )
        with contextlib.suppress(Exception, _Enough, pytest.skip.Exception, pytest.fail.Exception):
            fixtures = _Fixtures(item, submission, draw)
            item.function(**fixtures.for_(item.function))
        asked = (got.request for got in submission.observed)
        return [request for request in asked if not request.count and not request.timed]


@functools.cache
def _source(function: Callable[..., Any]) -> str:
    return inspect.getsource(function)


class _Fixtures:
    """The fixtures of a graded test, made by hand. KeyError for one that only pytest can make."""

    def __init__(self, item: pytest.Function, submission: Submission, draw: Draw) -> None:
        self._item = item
        self._made: dict[str, Any] = {
            **(item.callspec.params if hasattr(item, "callspec") else {}),
            "submission": submission,
            "draw": draw,
            "part": lambda name: contextlib.nullcontext(),
            "figures": {},
        }

    def for_(self, function: Callable[..., Any]) -> dict[str, Any]:
        return {name: self._make(name) for name in inspect.signature(function).parameters if name != "self"}

    def _make(self, name: str) -> Any:
        if name == "llm" and name not in self._made:
            model = self._made["submission"].model = ScriptedModel()
            self._made[name] = model
        if name not in self._made:
            (*_, definition) = self._item._fixtureinfo.name2fixturedefs[name]
            if not definition.func.__module__.startswith("tests."):
                raise KeyError(name)
            made = definition.func(**self.for_(definition.func))
            self._made[name] = next(made) if inspect.isgenerator(made) else made
        return self._made[name]


_kept: dict[tuple[Any, ...], Questions] = {}


def questions_of(module: GradedModule) -> Questions:
    """The questions of an exercise, the same object for every tree that a process grades."""
    key = module.course.root, module.exercise
    if key not in _kept:
        _kept[key] = Questions(module)
    return _kept[key]


@dataclass
class Asking:
    """One submission, to be asked more than its tests did. It costs no points and ends no run."""

    module: GradedModule
    executor: Executor
    known: Known
    scripted: bool  # whether the language model of the run is a scripted one
    processes: set[Any] = field(default_factory=set)  # of the failing test's requests
    silent: set[str] = field(default_factory=set)  # what did not answer
    borne_out: dict[str, dict[tuple[Mistake, ...], bool]] = field(default_factory=dict)

    def questions(self, names: set[str]) -> Iterator[Request]:
        for request in questions_of(self.module).about(names):
            if request.process in self.processes and (self.scripted or request.model is None):
                yield request

    def ask(self, request: Request) -> Result | None:
        tree, exercise = self.module.tree, self.module.exercise
        if request.name in self.silent or self.known.answer(request, tree, exercise) is not None:
            return None
        shorter = replace(request, seconds=min(request.seconds, SECONDS))
        result, _ = run(self.executor, shorter, tree, exercise)
        if result.trouble is not None and result.trouble.kind in ("time", "memory", "died", "printed", "load"):
            self.silent.add(request.name)
            return None
        return result

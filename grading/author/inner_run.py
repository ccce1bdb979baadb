"""A pytest run inside this process that grades one exercise of one tree, quietly."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from grading.course.layout import Course
from grading.course.trees import Tree
from grading.data.record import Grade, Record
from grading.session.finish import grade_of
from grading.session.hooks import Hooks
from grading.session.options import Options
from grading.session.session import Session

if TYPE_CHECKING:
    from grading.run.executors import Executor

# No plugins but these, no cache between runs, no garbage collection after each run, no source code in tracebacks: they
# would take longer than most tests, and nobody sees them.
_SPARED = (
    *("--disable-plugin-autoload", "-p", "pytest_benchmark.plugin", "-p", "grading.plugin"),
    *("-p", "no:cacheprovider", "-p", "no:unraisableexception", "--tb", "native"),
)


class UncollectedError(Exception):
    """The graded tests of an exercise could not be collected, for example because an oracle is missing."""


def grade_tree(
    course: Course,
    exercise: str,
    tree: Tree,
    tests: Sequence[str] | None = None,
    until: Callable[[Record], bool] | None = None,
    recognise: bool = False,
    several: float = 0.0,
    executor: Executor | None = None,
) -> Grade:
    """The grade of one tree, quietly.

    Args:
        tests: the tests to run, in this order; None for all tests in the order of their file.
        until: called with each record; the run stops after a record for which it returns True.
        recognise: look up known mistakes, however long it takes.
        several: CPU seconds for looking up several mistakes at once.
        executor: where the tree's code runs (default: in this process).

    Raises UncollectedError.
    """
    options = Options(start=course.root)
    patience = math.inf if recognise else 0
    session = Session(course, options, tree=tree, executor=executor, patience=patience, several=several, shrink=False)
    arguments = [str(course.tests(exercise)), "--rootdir", str(course.root), "-o", "addopts=", *_SPARED]
    said, inner = io.StringIO(), _InnerRun(session, tests, until)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.chdir(course.root):
        status = pytest.main(arguments, plugins=[inner])
    if inner.uncollected:
        raise UncollectedError(f"{course.tests(exercise).relative_to(course.root)}: {inner.uncollected}")
    if status in (
        pytest.ExitCode.INTERRUPTED,
        pytest.ExitCode.USAGE_ERROR,
    ):  # for example, a test file that can't be imported
        raise RuntimeError(f"{exercise}: pytest could not grade {tree.name}:\n{said.getvalue()}")
    return grade_of(session)


@dataclass
class _InnerRun:
    """The pytest plugin that registers this session instead of one made from the command line."""

    session: Session
    tests: Sequence[str] | None
    until: Callable[[Record], bool] | None
    uncollected: str = ""  # why a file of tests could not be imported, or left itself out

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        config.pluginmanager.register(Hooks(self.session, config), "whetstone")

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.run = session

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed and report.longrepr is not None:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.uncollected = reason.strip().splitlines()[-1].removeprefix("E ").strip()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.tests is not None:
            found = {item.name: item for item in items}
            items[:] = [found[name] for name in self.tests]

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if hasattr(report, "whetstone") and self.until is not None and self.until(self.session.records[-1]):
            self.run.shouldfail = "enough seen"

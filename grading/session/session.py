"""One run of the grader: what is graded, where it runs, and what has been observed so far."""

from __future__ import annotations

import importlib
import pkgutil
import time
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import pytest

from grading.ask import marks
from grading.course.layout import Course
from grading.course.origin import origin, who
from grading.course.trees import Tree, find_tree
from grading.data.record import Record
from grading.run.cpu import Patience
from grading.session.items import graded_module, record_id
from grading.session.options import Options

if TYPE_CHECKING:
    from grading.ask.draw import Draw
    from grading.ask.got import Got
    from grading.ask.submission import Known, Submission
    from grading.course.review import Finding
    from grading.run.executors import Executor
    from grading.run.sandbox import Sandbox
    from grading.session.collect import GradedModule
    from grading.session.questions import Asking

PATIENCE = 90.0  # CPU seconds per run for looking up known mistakes, so that a hand-in that fails every test ends too
PATIENCE_FOR_SEVERAL = 20.0  # CPU seconds of these for trying several mistakes at once


class Session:
    """Creating a session runs none of the submission's code and writes nothing.

    Args:
        tree: what to grade, instead of the tree that the options name.
        executor: where it runs, instead of where the options say.
        patience: CPU seconds for looking up known mistakes (default: PATIENCE).
        several: CPU seconds of these for several mistakes at once (default: PATIENCE_FOR_SEVERAL without `patience`).
        shrink: whether Hypothesis shrinks failing examples.
    """

    def __init__(
        self,
        course: Course,
        options: Options,
        *,
        tree: Tree | None = None,
        executor: Executor | None = None,
        patience: float | None = None,
        several: float = 0.0,
        shrink: bool = True,
    ) -> None:
        self.course, self.options = course, options
        self.patience = Patience(PATIENCE if patience is None else patience)
        self.patience_for_several = Patience(PATIENCE_FOR_SEVERAL if patience is None else several)
        self.shrink = shrink
        self.tree = tree or self._named(options.impl, "--impl")
        self.lender = self._named(options.prerequisites, "--prerequisites")
        self._executor = executor
        self.graded: dict[str, Tree] = {}  # by name, the trees of which exercises were collected
        self.records: list[Record] = []
        self.planned: dict[str, Record] = {}  # by id, what was collected: the total is fixed before anything runs
        self.deselected: set[str] = set()
        self.explained: dict[tuple[str, str], str] = {}  # the test where the terminal first explained something
        self.known: Known | None = None
        self.named: dict[str, dict[str, None]] = {}  # known mistakes so far, in order, by exercise
        self._asking: dict[str, Asking] = {}  # by exercise
        self._findings: dict[tuple[Tree, str], tuple[Finding, ...]] = {}
        self.begun, self._started = datetime.now(UTC), time.monotonic()

    def _named(self, name: str | None, option: str) -> Tree | None:
        """Raises TreeError if there is no such tree."""
        return find_tree(self.course, name, self.options.start, option) if name else None

    @property
    def implementation(self) -> str:
        """What was graded, as `--impl` names it."""
        return self.options.impl or ", ".join(sorted(self.graded)) or "exercises"

    @cached_property
    def identity(self) -> dict[str, str]:
        """Whose work was graded, when, how, and by which course."""
        folder = self.tree.roots[0] if self.tree is not None else None
        found = {
            "student": who(self.tree, self.options.student),
            "date": f"{self.begun:%Y-%m-%d %H:%M} UTC",
            **origin(self.course, folder),
            "sandbox": self.options.isolate or "none",
            "options": self.options.flags,
        }
        return {name: value for name, value in found.items() if value}

    @property
    def late(self) -> bool:
        """Whether the time of --time-budget is over."""
        return time.monotonic() - self._started > self.options.time_budget

    def findings(self, tree: Tree, exercise: str) -> tuple[Finding, ...]:
        """The lines of a submission that a person should look at."""
        from grading.course.review import review

        if not self.options.review:
            return ()
        if (tree, exercise) not in self._findings:
            self._findings[tree, exercise] = review(self.course, tree, exercise)
        return self._findings[tree, exercise]

    @cached_property
    def accepted(self) -> frozenset[str]:
        """What a person has accepted beside the reports: see `grading.session.acceptance`."""
        from grading.session.acceptance import accepted

        return accepted(self.options.report) if self.options.report is not None else frozenset()

    def tree_for(self, top: str, exercise: str) -> Tree:
        """The tree to grade, with its prerequisites, if pytest was given a path under `top`."""
        default = "exercises" if top == "exercises" else "solutions"
        tree = self.tree or find_tree(self.course, default, self.course.root)
        return tree.lent(exercise, self.lender) if self.lender is not None else tree

    @property
    def executor(self) -> Executor:
        if self._executor is None:
            from grading.run.executors import InProcess, Isolated

            if self.options.isolate:
                _import_all()
                self._executor = Isolated(self.sandbox)
            else:
                self._executor = InProcess(live=self.options.live)
        return self._executor

    @property
    def sandbox(self) -> Sandbox:
        """What surrounds the submission."""
        from grading.run.sandbox import Sandbox

        course, options = self.course, self.options
        return Sandbox(options.isolate, course.material, course.private_roots, options.memory_mb)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()

    def draw(self, item: pytest.Item) -> Draw:
        """The inputs of a graded test."""
        from grading.ask.draw import Draw

        return Draw(self.options.seed, record_id(item), self.options.device)

    def submission(self, item: pytest.Item) -> Submission:
        """The exercise under test, as this test sees it."""
        from grading.ask.submission import Known, Submission

        self.known = self.known or Known()
        module = graded_module(item)
        assert module is not None
        return Submission(
            module.tree,
            module.exercise,
            self.executor,
            self.known,
            seed=self.draw(item).seed,
            seconds=marks.seconds_of(item),
            process=marks.process_of(item),
        )

    def asking(self, module: GradedModule, observed: list[Got]) -> Asking:
        """The submission of a failing test, to be asked more than its tests did."""
        from grading.ask.submission import Known
        from grading.run.executors import InProcess
        from grading.session.questions import Asking

        if module.exercise not in self._asking:
            executor = InProcess() if self.options.live else self.executor  # a debugger stops in tests alone
            scripted = not self.options.llm_url
            self._asking[module.exercise] = Asking(module, executor, self.known or Known(), scripted)
        asking = self._asking[module.exercise]
        asking.processes = {got.request.process for got in observed}
        return asking


def _import_all() -> None:
    """All of the grader, before a submission runs: what that could change in its files is not read afterwards."""
    import grading

    for module in pkgutil.walk_packages(grading.__path__, "grading."):
        if not module.name.startswith(("grading.author", "grading.watch", "grading.__main__", "grading.run.child")):
            importlib.import_module(module.name)


def session_of(config: pytest.Config) -> Session:
    """The session of a pytest run."""
    return config.pluginmanager.get_plugin("whetstone").session  # type: ignore[union-attr]

"""Collection: finds the graded tests of an exercise from the path of the exercise or of its tests."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from grading.course.layout import Course
from grading.course.source import SourceError, unstarted
from grading.course.trees import Tree
from grading.explain.explanation import Explanation
from grading.explain.outcome import NotOffered, NotStarted, Unmet
from grading.session.outline import outline


class GradedModule(pytest.Module):
    """The graded tests of one exercise of one tree."""

    course: Course
    exercise: str
    tree: Tree
    shrink: bool  # whether Hypothesis shrinks failing examples
    absent: NotStarted | NotOffered | Unmet | None = None  # why no test needs to run

    @property
    def handout(self) -> str:
        return self.course.handout(self.exercise).relative_to(self.course.root).as_posix()

    def _getobj(self) -> Any:
        self.absent = self._absent()
        if self.absent is not None and (module := outline(self.course.tests(self.exercise))) is not None:
            return module
        load_hypothesis_profile(self.shrink)
        return importlib.import_module(self.course.tests_module(self.exercise))

    def _absent(self) -> NotStarted | NotOffered | Unmet | None:
        path = self.tree.file(self.exercise)
        if path is None and self.tree.library:
            return NotOffered(f"{self.tree.name} does not offer {self.exercise}")
        if path is None and (why := self.tree.refused(self.exercise)):
            return Unmet(Explanation(why, wrong=why))
        if path is None:
            return NotStarted(f"{self.tree.name} has no {self.exercise}.py")
        try:
            open_ = unstarted(self.tree.source(self.exercise), f"{self.exercise}.py")
            return NotStarted("not started") if open_ else None
        except SourceError as error:
            code = " ".join(error.text.split())
            return Unmet(Explanation(str(error), wrong=f"{str(error).removesuffix(f': {code}')}\n    {code}"))


class NothingGraded(pytest.File):
    """A Python file beside the exercises that has no graded tests; it is never imported."""

    def collect(self) -> list[pytest.Item]:
        return []


def load_hypothesis_profile(shrink: bool) -> None:
    """Property tests without deadlines or a database: the same examples for the same seed."""
    import hypothesis

    hypothesis.settings.register_profile(
        "whetstone",
        deadline=None,
        database=None,
        print_blob=False,
        phases=[phase for phase in hypothesis.Phase if shrink or phase is not hypothesis.Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=[
            hypothesis.HealthCheck.function_scoped_fixture,
            hypothesis.HealthCheck.too_slow,
            hypothesis.HealthCheck.differing_executors,
        ],
    )
    hypothesis.settings.load_profile("whetstone")


def collect_module(
    path: Path, parent: pytest.Collector, exercise: str, course: Course, tree: Tree, shrink: bool
) -> GradedModule:
    module = GradedModule.from_parent(parent, path=path)
    module.course, module.exercise, module.tree, module.shrink = course, exercise, tree, shrink
    return module

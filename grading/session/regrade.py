"""Grades a tree again as an earlier grade was, and says what changed and why it may have."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from grading.course.layout import Course
from grading.data.record import Grade, Record, show_points
from grading.reports import read_grade
from grading.session.options import SEED

# What a changed part of a grade's identity is called.
_PARTS = {
    "hand-in": "the hand-in has changed",
    "tests": "the tests or the grader have changed",
    "sandbox": "it ran in another sandbox",
    "options": "the options were others",
}


class RegradeError(Exception):
    """What cannot be graded again; the message is one sentence."""


def regrade(course: Course, report: Path, tree: str, options: Sequence[str]) -> tuple[Grade, Grade]:
    """The earlier grade of grade.json, and that of the tree today: with the same exercises, seed and sandbox.

    Raises RegradeError.
    """
    path = report / "grade.json" if report.is_dir() else report
    try:
        before = read_grade(path)
    except (OSError, ValueError) as error:
        raise RegradeError(str(error)) from None
    exercises = list(before.by_exercise())
    if unknown := [name for name in exercises if name not in course.exercises]:
        raise RegradeError(f"{path} grades {unknown[0]}, which this course does not have")
    if not exercises:
        raise RegradeError(f"{path} graded nothing")
    if before.seed is None and SEED not in os.environ:
        raise RegradeError(f"{path} was made with a secret seed: give it in the environment variable {SEED}")
    seed = [] if before.seed is None else ["--grading-seed", str(before.seed)]
    kind = before.identity.get("sandbox", "none")
    sandbox = "--no-isolate" if kind == "none" else f"--isolate={kind}"
    with tempfile.TemporaryDirectory(prefix="whetstone-") as folder:
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(str(course.stub(name)) for name in exercises),
            *(f"--impl={tree}", f"--report={folder}", *seed, sandbox, *before.identity.get("options", "").split()),
            *options,
        ]
        run = subprocess.run(command, capture_output=True, text=True, cwd=course.root)
        try:
            now = read_grade(Path(folder) / "grade.json")
            if now.problem:
                raise RegradeError(now.problem)
            return before, now
        except (OSError, ValueError):
            said = (run.stderr.strip() or run.stdout.strip()).splitlines()
            raise RegradeError(said[-1] if said else f"pytest ended with status {run.returncode}") from None


def changes(before: Grade, now: Grade) -> list[str]:
    """What changed from one grade to the other, in lines: the points, why they may have, and the tests."""
    lines = [f"{_points(before)} before, {_points(now)} now"]
    old, new = ({record.id: record for record in grade.records} for grade in (before, now))
    tests = [name for name in {**old, **new} if _told(old.get(name)) != _told(new.get(name))]
    if not tests:
        return [*lines, "Every test has the same verdict and the same points."]
    reasons = [words for part, words in _PARTS.items() if before.identity.get(part) != now.identity.get(part)]
    if before.seed != now.seed:
        reasons.append("the seed is another")
    others = sorted(
        name
        for name in before.environment.keys() | now.environment.keys()
        if before.environment.get(name) != now.environment.get(name)
    )
    reasons += [
        f"{name} is {now.environment.get(name, 'not there')}, and was {before.environment.get(name, 'not there')}"
        for name in others
    ]
    if reasons:
        lines.append(f"Why: {'; '.join(reasons)}.")
    else:
        lines.append(
            "Neither the hand-in, the tests, the environment nor the seed has changed: these tests are unsteady."
        )
    return [*lines, *(f"  {name}: {_told(old.get(name))} before, {_told(new.get(name))} now" for name in tests)]


def _points(grade: Grade) -> str:
    return f"{show_points(grade.points)} of {show_points(grade.max_points)} points"


def _told(record: Record | None) -> str:
    if record is None:
        return "no such test"
    return f"{record.verdict} with {show_points(record.points)} of {show_points(record.max_points)}"

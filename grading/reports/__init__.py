"""The reports of a graded run. Each is generated from its records alone, so the points are the same in all of them.

grade.json               the records and their totals, as grade.schema.json describes them; `read_grade` reads it back
gradescope/results.json  for Gradescope
classroom/results.json   for GitHub Classroom; results.base64 is the same in the form that its reporter reads
classroom/EXERCISE.json  one exercise alone, for a workflow that has a runner for each
exercism/results.json    for Exercism
summary.md               for the summary page of a CI job
index.html               for people
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from grading.data.record import Grade
from grading.reports import classroom, exercism, grade_json, gradescope, page, summary
from grading.reports.grade_json import read_grade
from grading.reports.terminal import next_step, points_table

__all__ = ["ReportError", "next_step", "points_table", "read_grade", "write_reports"]


class ReportError(Exception):
    """Some reports could not be written; all others were."""


def write_reports(grade: Grade, folder: Path, root: Path | None = None) -> list[Path]:
    """Write every report under `folder`, which is created if missing, and return their paths.

    `root`: of the course, for links to its handouts.

    Each file is complete and from this run, or absent. If a report fails, the others are still written; then
    ReportError is raised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, failures = [], []
    home = Path(os.path.relpath(root, folder)).as_posix() if root is not None else None
    for name, render, part in _reports(grade, home):
        path = folder / name
        try:
            path.unlink(missing_ok=True)  # an earlier run's report must not pass for this run's
            _write(path, render(part))
        except Exception as error:
            failures.append((name, error))
        else:
            written.append(path)
    if failures:
        what = "; ".join(f"{name} ({type(error).__name__}: {error})" for name, error in failures)
        raise ReportError(f"could not write under {folder}: {what}") from failures[0][1]
    return written


def _reports(grade: Grade, home: str | None) -> Iterator[tuple[str, Callable[[Grade], str], Grade]]:
    """The name of each report, how it is rendered, and the grade to render."""
    yield "grade.json", grade_json.render, grade
    yield "gradescope/results.json", gradescope.render, grade
    yield "classroom/results.json", classroom.render, grade
    yield "classroom/results.base64", classroom.render_base64, grade
    for exercise, tally in grade.by_exercise().items():
        yield f"classroom/{classroom.runner(exercise)}.json", classroom.render, Grade(tally.records)
    yield "exercism/results.json", exercism.render, grade
    yield "summary.md", summary.render, grade
    yield "index.html", functools.partial(page.render, home=home), grade


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8", newline="\n")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)

"""classroom/: what a runner passes to GitHub Classroom's `autograding-grading-reporter` action.

The action reads one environment variable for each runner, `<RUNNER>_RESULTS`: a JSON object in base64, here with the
fields that `autograding-command-grader` writes. `results.base64` holds the whole run for such a variable.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from grading.course.layout import tests_path
from grading.data.record import Grade, Record
from grading.reports.exercism import STATUS  # Classroom's graders use Exercism's statuses
from grading.reports.text import cut, fitted, to_json
from grading.reports.wording import explanation, label, nothing, state

# Linux allows 128 KiB for one environment variable; base64 takes four bytes for three, and the name needs some too.
SIZE = 96_000


def render(grade: Grade) -> str:
    """An entry for each test, or for each exercise if that does not fit into an environment variable."""
    if not grade.records:
        return _results(grade, [_whole("grading", grade, nothing(grade))])
    try:
        return fitted(lambda limit: _results(grade, [_test(record, limit) for record in grade.records]), SIZE)
    except ValueError:
        exercises = [(name, Grade(tally.records)) for name, tally in grade.by_exercise().items()]
        return _results(grade, [_whole(f"{name}: {state(exercise)}", exercise) for name, exercise in exercises])


def render_base64(grade: Grade) -> str:
    return base64.b64encode(render(grade).encode()).decode()


def runner(exercise: str) -> str:
    """The name of an exercise's own runner, usable as a file name: `week1-self_attention`."""
    return re.sub(r"\W+", "-", exercise)


def _results(grade: Grade, tests: list[dict[str, Any]]) -> str:
    status = _status(grade)
    return to_json({"version": 1, "status": status, "max_score": grade.max_points, "tests": tests}, indent=None)


def _status(grade: Grade) -> str:
    statuses = {STATUS[record.verdict] for record in grade.records}
    if "fail" in statuses:
        return "fail"
    return "error" if "error" in statuses or not statuses else "pass"


def _test(record: Record, limit: int) -> dict[str, Any]:
    return {
        "name": f"{record.exercise}: {label(record)}",
        "status": STATUS[record.verdict],
        "score": record.points if record.counted else 0,
        "message": cut(explanation(record), limit) or None,
        "test_code": cut(record.test_code, limit),
        "filename": tests_path(record.exercise),
        "line_no": record.line or 0,
        "duration": round(1000 * record.seconds),  # milliseconds
    }


def _whole(name: str, grade: Grade, message: str | None = None) -> dict[str, Any]:
    """One entry for a whole grade, which has no line of source to point to."""
    return {
        "name": name,
        "status": _status(grade),
        "score": grade.points,
        "message": message,
        "test_code": "",
        "filename": "",
        "line_no": 0,
        "duration": round(1000 * sum(record.seconds for record in grade.records)),
    }

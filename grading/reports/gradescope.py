"""gradescope/results.json: the output of a Gradescope autograder ("Autograder Specifications", "Output format").

A test that is not counted has neither score nor max_score, so the total covers only the others. It still has a status,
because Gradescope shows a test with neither as failed.
"""

from __future__ import annotations

from typing import Any

from grading.data.record import Grade, Record, Verdict, show_points
from grading.reports.text import plain, to_json
from grading.reports.wording import count, explanation, label, nothing, reviews, ungraded

STATUS: dict[Verdict, str] = {
    "passed": "passed",
    "failed": "failed",
    "not started": "failed",
    "not reached": "failed",
    "not offered": "passed",
    "not gradable here": "passed",
    "inconclusive": "passed",
    "error": "failed",  # red, so that somebody looks; its name says whose fault it is
}


def render(grade: Grade) -> str:
    return to_json(
        {
            "score": grade.points,
            "execution_time": round(sum(record.seconds for record in grade.records), 2),
            "output": _overview(grade),
            "output_format": "text",
            "visibility": "visible",
            "stdout_visibility": "hidden",  # the run's own log is for instructors; students read the tests' output
            "extra_data": {
                "max_points": grade.max_points,
                "ungraded_points": grade.ungraded_points,
                "implementation": grade.implementation,
                "seed": grade.seed,
                "identity": grade.identity,
                "environment": grade.environment,
                "review": list(reviews(grade)),
            },
            "tests": [
                _test(record, f"{number}.{index}")
                for number, tally in enumerate(grade.by_exercise().values(), 1)
                for index, record in enumerate(tally.records, 1)
            ],
        }
    )


def _overview(grade: Grade) -> str:
    if not grade.records:
        return nothing(grade)
    lines = [f"{show_points(grade.points)} of {show_points(grade.max_points)} points that can be earned here."]
    if missed := grade.count("not reached"):
        lines.append(f"{count(missed, 'test')} not reached: the run ended before, and they count 0.")
    if errors := grade.count("error"):
        lines.append(f"{count(errors, 'grader error')}: not your fault, please tell the course staff.")
    return "\n".join([*lines, *(f"Not counted: {phrase}." for phrase in ungraded(grade))])


def _test(record: Record, number: str) -> dict[str, Any]:
    printed = f"Printed by your code:\n{plain(record.output)}" if record.output else ""
    return {
        **({"score": record.points, "max_score": record.max_points} if record.counted else {}),
        "status": STATUS[record.verdict],
        "name": f"{record.exercise}: {label(record)}",
        "number": number,
        "output": "\n\n".join(filter(None, [explanation(record), printed])),
        "output_format": "text",
        "tags": [record.exercise, record.verdict],
        "visibility": "visible",
        "extra_data": {
            name: value
            for name, value in record.to_dict().items()
            if name in ("id", "verdict", "max_points", "seconds", "mistakes", "handout", "parts", "figures")
        },
    }

"""exercism/results.json: version 3 of Exercism's "Test Runner Interface".

The format has no points, so the names of tests include them. The tasks are the exercises, numbered from 1.
"""

from __future__ import annotations

from typing import Any

from grading.data.record import Grade, Record, Verdict
from grading.reports.text import cut, plain, to_json
from grading.reports.wording import explanation, label, nothing, score

MESSAGE_LIMIT = 16_000  # the format allows 65,535 bytes, and a character takes up to four
OUTPUT_LIMIT = 500
OUTPUT_NOTE = "\nOutput was truncated. Please limit to 500 chars"

STATUS: dict[Verdict, str] = {
    "passed": "pass",
    "failed": "fail",
    "not started": "fail",
    "not reached": "fail",
    "not offered": "pass",  # there is no status for skipped tests
    "not gradable here": "pass",
    "inconclusive": "pass",
    "error": "error",
}


def render(grade: Grade) -> str:
    status = _status(grade)
    return to_json(
        {
            "version": 3,
            "status": status,
            "message": _why(grade) if status == "error" else None,
            "tests": [
                _test(record, task)
                for task, tally in enumerate(grade.by_exercise().values(), 1)
                for record in tally.records
            ],
        }
    )


def _status(grade: Grade) -> str:
    if grade.count("error") == len(grade.records):  # also if there are none: nothing was tested
        return "error"
    return "fail" if any(STATUS[record.verdict] != "pass" for record in grade.records) else "pass"


def _why(grade: Grade) -> str:
    return cut(nothing(grade) or explanation(grade.records[0]), MESSAGE_LIMIT)


def _test(record: Record, task: int) -> dict[str, Any]:
    return {
        "name": f"{label(record)} ({score(record)} points)" if record.counted else label(record),
        "status": STATUS[record.verdict],
        "message": cut(explanation(record), MESSAGE_LIMIT) or None,
        "output": cut(plain(record.output), OUTPUT_LIMIT, OUTPUT_NOTE) or None,
        "test_code": record.test_code,
        "task_id": task,
    }

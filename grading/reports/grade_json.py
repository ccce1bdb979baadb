"""grade.json: the records themselves and their totals, as `grade.schema.json` describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grading.data.record import Grade, Record, Tally
from grading.reports.text import to_json

VERSION = 1
SCHEMA = Path(__file__).with_name("grade.schema.json")


def render(grade: Grade) -> str:
    return to_json(
        {
            "version": VERSION,
            "implementation": grade.implementation,
            "seed": grade.seed,
            "identity": grade.identity,
            "environment": grade.environment,
            "problem": grade.problem,
            "total": _totals(grade),
            "exercises": {exercise: _totals(tally) for exercise, tally in grade.by_exercise().items()},
            "records": [record.to_dict() for record in grade.records],
        }
    )


def read_grade(path: Path) -> Grade:
    """The grade that `grade.json` was written from.

    Raises ValueError if the file is not a grade of this version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise ValueError(f"its version must be {VERSION}, not {data['version']!r}")
        records = tuple(Record.from_dict({**record, "figures": _figures(record)}) for record in data["records"])
        about = (data[name] for name in ("implementation", "seed", "environment", "identity", "problem"))
        return Grade(records, *about)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a grade: {error}") from error


def _totals(tally: Tally) -> dict[str, float]:
    return {"points": tally.points, "max_points": tally.max_points, "ungraded_points": tally.ungraded_points}


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: float(value["float"]) if isinstance(value, dict) else value  # what `to_json` makes of NaN and infinity
        for name, value in record["figures"].items()
    }

"""What a person has looked at and accepted: `accepted.json` beside the reports, read by the next run with --strict.

A finding names the content of its file, so that a changed file is looked at again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from grading.data.record import Grade

FILE = "accepted.json"


def accepted(folder: Path) -> frozenset[str]:
    """The findings that were accepted; none where nothing was. ValueError for a file that is not from `accept`."""
    path = folder / FILE
    if not path.is_file():
        return frozenset()
    try:
        return frozenset(entry["finding"] for entry in json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a list of accepted findings: {error!r}") from None


def accept(folder: Path, grade: Grade, words: Iterable[str], by: str) -> list[str]:
    """Accept the findings of a grade that contain one of these words, all without words. Returns the new ones."""
    known, wanted = accepted(folder), list(words)
    findings = dict.fromkeys(finding for record in grade.records for finding in record.review)
    chosen = [each for each in findings if not wanted or any(word in each for word in wanted)]
    new = [each for each in chosen if each not in known]
    path = folder / FILE
    entries = json.loads(path.read_text("utf-8")) if path.is_file() else []
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    entries += [{"finding": each, "by": by, "date": when} for each in new]
    path.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return new

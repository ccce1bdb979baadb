"""The wording of all reports: the state of an exercise, the label of a test, and what the student reads about it."""

from __future__ import annotations

from grading.data.record import Grade, Record, Tally, show_points
from grading.reports.causes import Cause, lost
from grading.reports.text import cut, one_line, plain


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def amount(points: float) -> str:
    shown = show_points(points)
    return f"{shown} point" if shown == "1" else f"{shown} points"


def state(tally: Tally) -> str:
    """The progress of an exercise, and what was not graded: `3 tests to go, 4 points need a GPU`."""
    if tally.records and tally.count("not offered") == len(tally.records):
        return "not offered"
    return ", ".join(filter(None, [progress(tally), *ungraded(tally)]))


def progress(tally: Tally) -> str:
    """The progress of the graded tests: `not started`, `3 tests to go`, `done`; empty if there are none."""
    words = [count(tally.count("error"), "grader error")] if tally.count("error") else []
    counted = sum(record.counted for record in tally.records)
    if to_go := tally.count("failed") + tally.count("not started"):
        words.append("not started" if tally.count("not started") == counted else f"{count(to_go, 'test')} to go")
    if missed := tally.count("not reached"):
        words.append(f"{count(missed, 'test')} not reached")
    elif counted and not words:
        words.append("done")
    return ", ".join(words)


def ungraded(tally: Tally) -> list[str]:
    """What was not graded, a phrase for each cause: `4 points need a GPU`, `1 point inconclusive`.

    Grader errors are not included: reports show them separately.
    """
    causes: dict[str, list[Record]] = {}
    for record in tally.records:
        if not record.counted and record.verdict != "error":
            reason = one_line(record.reason)
            causes.setdefault(reason if reason.startswith("needs ") else record.verdict, []).append(record)
    phrases = []
    for cause, records in causes.items():
        points = Tally(tuple(records)).ungraded_points
        what = amount(points) if points else count(len(records), "test")
        if cause.startswith("needs ") and not what.startswith("1 "):
            cause = cause.replace("needs", "need", 1)
        phrases.append(f"{what} {cause}")
    return phrases


def shown_seed(grade: Grade) -> str:
    return "secret" if grade.seed is None else str(grade.seed)


def reviews(grade: Tally) -> dict[str, float]:
    """What a person should look at, with the points that tests earned by the file in which it is."""
    found: dict[str, float] = {}
    for record in grade.records:
        for finding in record.review:
            found[finding] = found.get(finding, 0.0) + record.points
    return found


def alike(cause: Cause) -> str:
    """What the other failures with the same cause are: `3 more tests fail by the same mistake, 4 points`."""
    if cause.whole_file:
        return f"None of its {count(len(cause.failures), 'test')} can run"
    tests = f"{count(len(cause.alike), 'more test')} {'fails' if len(cause.alike) == 1 else 'fail'}"
    why = "by the same mistake" if cause.known else "in the same way"
    return f"{tests} {why}, {amount(lost(cause.alike))}"


def nothing(grade: Grade) -> str:
    """Why there are no records; empty if there are some."""
    if grade.records:
        return ""
    return (
        f"Nothing was graded: {one_line(grade.problem)}" if grade.problem else "Nothing was graded: no tests were run."
    )


def label(record: Record) -> str:
    """The title, and why the test is not counted, if it is not."""
    title = one_line(record.title) + (" (for review)" if record.review and record.points else "")
    if record.counted:
        return title
    if record.verdict == "error":
        cause = "grader error"
    else:
        cause = ": ".join(filter(None, [record.verdict, cut(one_line(record.reason), 120, "...")]))
    return f"{title} ({cause}; {amount(record.max_points)} not counted)"


def score(of: Tally | Record) -> str:
    """`1.5 / 2`."""
    return f"{show_points(of.points)} / {show_points(of.max_points)}"


def explanation(record: Record) -> str:
    """What the student reads about one test, several lines; empty if it passed."""
    paragraphs = []
    if record.review and record.points:
        lines = "\n".join(f"  {plain(finding)}" for finding in record.review)
        paragraphs.append(f"For review: a person should look at\n{lines}")
    if record.verdict == "passed":
        return "".join(paragraphs)
    if record.verdict == "error":
        paragraphs.append(f"The grader itself broke here, not your code: {amount(record.max_points)} not counted.")
    elif not record.counted:
        paragraphs.append(f"{record.verdict.capitalize()}: {amount(record.max_points)} not counted.")
    if one_line(record.reason) not in one_line(record.message):
        paragraphs.append(plain(record.reason))
    paragraphs.append(plain(record.message).strip("\n"))
    if record.parts and record.counted:
        shares = (
            f"{one_line(name)} {show_points(part.points)}/{show_points(part.max_points)}"
            for name, part in record.parts.items()
        )
        paragraphs.append(f"Points: {', '.join(shares)}")
    return "\n\n".join(filter(None, paragraphs)) or record.verdict.capitalize()

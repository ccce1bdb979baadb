"""summary.md: GitHub-flavoured Markdown for the summary page of a CI job."""

from __future__ import annotations

import html

from grading.data.record import Grade, Record, Tally, show_points
from grading.reports.causes import Cause, causes
from grading.reports.text import cut, fence, fitted, markdown, one_line
from grading.reports.wording import alike, amount, count, explanation, label, nothing, reviews, score, shown_seed, state

SIZE = 1_000_000  # bytes; GitHub drops a summary of more than 1 MiB


def render(grade: Grade) -> str:
    return fitted(lambda limit: _summary(grade, limit), SIZE)


def _summary(grade: Grade, limit: int) -> str:
    environment = (f"{name} {version}" for name, version in {**grade.identity, **grade.environment}.items())
    blocks = [
        f"## {show_points(grade.points)} of {show_points(grade.max_points)} points",
        nothing(grade) or _table(grade),
        *_errors(grade, limit),
        *_lost(grade, limit),
        *_ungraded(grade),
        *_reviews(grade),
        markdown(", ".join([f"Graded: {grade.implementation}", f"seed {shown_seed(grade)}", *environment])),
    ]
    return "\n\n".join(blocks) + "\n"


def _table(grade: Grade) -> str:
    rows = ["| Exercise | Points | |", "|:--|--:|:--|"]
    for exercise, tally in grade.by_exercise().items():
        rows.append(f"| {markdown(exercise)} | {score(tally)} | {markdown(state(tally))} |")
    return "\n".join([*rows, f"| **Total** | **{score(grade)}** | |"])


def _errors(grade: Grade, limit: int) -> list[str]:
    errors = [record for record in grade.records if record.verdict == "error"]
    if not errors:
        return []
    heading = f"### {count(len(errors), 'grader error').capitalize()}: not the submission's fault"
    return [heading, *(_details(f"{record.exercise}: {label(record)}", [_message(record, limit)]) for record in errors)]


def _reviews(grade: Grade) -> list[str]:
    found = reviews(grade)
    if not found:
        return []
    return [
        "### For review",
        "These lines do what an answer does not need. A person should look at them; "
        "`python -m grading accept` records a yes.",
        "\n".join(f"- {markdown(finding)} ({amount(points)})" for finding, points in found.items()),
    ]


def _lost(grade: Grade, limit: int) -> list[str]:
    blocks = []
    for exercise, tally in grade.by_exercise().items():
        unstarted = [record for record in tally.records if record.verdict == "not started"]
        inside = [block for cause in causes(tally) for block in _cause(cause, limit)]
        if unstarted:
            points = amount(Tally(tuple(unstarted)).max_points)
            inside.append(f"Not started: {count(len(unstarted), 'test')}, {points}.")
        if missed := [record for record in tally.records if record.verdict == "not reached"]:
            points = amount(Tally(tuple(missed)).max_points)
            inside.append(f"Not reached before the run ended: {count(len(missed), 'test')}, {points}.")
        if inside:
            lost = amount(tally.max_points - tally.points)
            blocks.append(_details(f"{exercise}: {lost} lost", inside))
    return ["### Points to earn", *blocks] if blocks else []


def _cause(cause: Cause, limit: int) -> list[str]:
    """One failure in full, and the titles of those with the same cause."""
    shown = f"{_titled(cause.shown)}\n\n{_message(cause.shown, limit)}"
    if not cause.alike:
        return [shown]
    return [shown, f"{alike(cause)}:", *map(_titled, cause.alike)]


def _titled(record: Record) -> str:
    return f"**{markdown(record.title)}** ({score(record)})"


def _ungraded(grade: Grade) -> list[str]:
    records = [record for record in grade.records if not record.counted and record.verdict != "error"]
    if not records:
        return []
    rows = ["| Test | Points | Why |", "|:--|--:|:--|"]
    for record in records:
        why = f"{record.verdict}: {record.reason}" if record.reason else record.verdict
        cells = [markdown(f"{record.exercise}: {record.title}"), show_points(record.max_points), markdown(why)]
        rows.append(f"| {' | '.join(cells)} |")
    return [
        "### Not counted",
        _details(f"{amount(Tally(tuple(records)).ungraded_points)} could not be graded here", ["\n".join(rows)]),
    ]


def _details(title: str, blocks: list[str]) -> str:
    """A collapsed block; the blank lines make its content Markdown again."""
    return "\n\n".join([f"<details><summary>{html.escape(one_line(title))}</summary>", *blocks, "</details>"])


def _message(record: Record, limit: int) -> str:
    return fence(cut(explanation(record), limit))

"""The table and the advice at the end of a run: plain text, ASCII except for names and reasons."""

from __future__ import annotations

import unicodedata

from grading.data.record import Grade, Record, Tally, Verdict, show_points
from grading.reports.text import one_line
from grading.reports.wording import amount, count, progress, state, ungraded

BAR = 10  # columns


def points_table(grade: Grade, width: int = 80) -> list[str]:
    """A line for each exercise under the name of its week, the total, and what was not counted.

    No line is wider than `width` columns: long names are cut first, then the ends of lines.
    """
    weeks: dict[str, list[tuple[str, Tally]]] = {}
    for exercise, tally in grade.by_exercise().items():
        week, _, name = one_line(exercise).rpartition("/")
        weeks.setdefault(week, []).append((f"  {name}", tally))
    rows = [row for exercises in weeks.values() for row in exercises]

    earned = len(show_points(grade.points))
    possible = len(show_points(grade.max_points))
    states = max((columns(state(tally)) for _, tally in rows), default=0)
    room = width - (2 + earned + 1 + possible) - (2 + BAR) - (2 + states)
    names = min(max(room, width // 3), max(columns(name) for name in ["total", *dict(rows)]))

    def line(name: str, tally: Tally, words: str) -> str:
        name = clip(name, names)
        name += " " * (names - columns(name))
        points = f"{show_points(tally.points):>{earned}}/{show_points(tally.max_points):<{possible}}"
        return clip(f"{name}  {points}  {bar(tally)}  {words}", width).rstrip()

    lines = []
    for week, exercises in weeks.items():
        lines += [clip(week, width)] if week else []
        lines += [line(name, tally, state(tally)) for name, tally in exercises]
    lines.append(line("total", grade, progress(grade)))
    lines += [clip(f"not counted: {phrase}", width) for phrase in ungraded(grade)]
    return lines + [clip(f"handouts: {path}", width) for path in _handouts(grade)]


def _handouts(grade: Grade) -> list[str]:
    """The paths of the handouts of unstarted exercises: for each week, one with NAME for the exercise."""
    unstarted = [record.handout or "" for record in grade.records if record.verdict == "not started"]
    folders = [one_line(handout.partition("#")[0]).rpartition("/")[0] for handout in unstarted]
    return [f"{folder}/NAME.md" for folder in dict.fromkeys(folders) if folder]


def tests_table(tally: Tally, width: int = 80) -> list[str]:
    """A line for each test of an exercise: its points, its title, and why it lost points."""
    earned = max(len(show_points(record.points)) for record in tally.records)
    possible = max(len(show_points(record.max_points)) for record in tally.records)
    lines = []
    for record in tally.records:
        mark = {"passed": "+", "failed": "-"}.get(record.verdict, " ")
        points = f"{show_points(record.points):>{earned}}/{show_points(record.max_points):<{possible}}"
        why = "" if record.verdict == "passed" else f": {one_line(record.reason)}"
        lines.append(clip(f"{mark} {points}  {one_line(record.title)}{why}", width))
    return lines


def next_step(grade: Grade) -> str | None:
    """What to do next, in one or two sentences; None if nothing was graded at all."""
    if not grade.records:
        return None
    if errors := grade.count("error"):
        broken = _first(grade, "error")
        location = f"in {count(errors, 'test')}, first in {_quoted(broken)} of {one_line(broken.exercise)}"
        return f"The grader itself broke {location}. That is not your fault: please report it."
    if grade.count("failed"):
        failed = _first(grade, "failed")
        return f"Next: make {_quoted(failed)} of {one_line(failed.exercise)} pass.{_reading(failed.handout)}"
    if grade.count("not started"):
        unstarted = _first(grade, "not started")
        tally = grade.by_exercise()[unstarted.exercise]
        unearned = (each.max_points - each.points for each in tally.records if each.verdict == "not started")
        points = amount(sum(unearned))
        handout = unstarted.handout and unstarted.handout.partition("#")[0]
        return f"Next: start {one_line(unstarted.exercise)}, {points} to earn.{_reading(handout)}"
    left = f" Not counted: {', '.join(ungraded(grade))}." if ungraded(grade) else ""
    if not any(record.counted for record in grade.records):
        return f"Nothing could be graded here.{left}"
    if grade.implementation != "exercises":
        return f"{grade.implementation}: all {amount(grade.max_points)} that can be earned here.{left}"
    return f"Well done: you have earned all {amount(grade.max_points)} that can be earned here.{left}"


def bar(tally: Tally) -> str:
    """A bar for the share of points earned, full only if every point is."""
    share = tally.points / tally.max_points if tally.max_points else 0
    return "[" + ("#" * int(share * (BAR - 2))).ljust(BAR - 2, ".") + "]"


def columns(text: str) -> int:
    """The width of a line in a terminal: two columns for each wide character, such as Hangul."""
    return sum(_columns(character) for character in text)


def clip(text: str, width: int) -> str:
    """The line, cut to at most `width` columns with `...` at the end if it is longer."""
    if columns(text) <= width:
        return text
    dots = "..."[:width]
    kept, used = "", columns(dots)
    for character in text:
        used += _columns(character)
        if used > width:
            break
        kept += character
    return kept + dots


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _first(grade: Grade, verdict: Verdict) -> Record:
    return next(record for record in grade.records if record.verdict == verdict)


def _quoted(record: Record) -> str:
    return f'"{one_line(record.title)}"'


def _reading(handout: str | None) -> str:
    return f" Read {one_line(handout)}." if handout else ""

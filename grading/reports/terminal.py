"""What the end of a run says: the failures by cause, the points, the advice. Plain lines, ASCII except for names."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable

from grading.data.record import Grade, Record, Tally, Verdict, show_points
from grading.reports.causes import Cause, causes
from grading.reports.text import one_line, plain
from grading.reports.wording import alike, amount, count, progress, reviews, state, ungraded

BAR = 10  # columns
INDENT = 11  # the texts of a failure begin in this column, beside their labels
NAMED = 4  # lines of names of tests that fail alike; the others are counted


def failures(tally: Tally, width: int = 80) -> list[tuple[str, list[str]]]:
    """The failures of an exercise: for each cause, a heading and the lines below it. Each cause is told once."""
    return [_told(cause, tally, width) for cause in causes(tally)]


def _told(cause: Cause, tally: Tally, width: int) -> tuple[str, list[str]]:
    shown, message = cause.shown, plain(cause.shown.message).splitlines()
    if cause.whole_file:
        return f"{one_line(shown.exercise)}.py does not load", [*message, "", f"{alike(cause)}: {_score(tally)}."]
    head = textwrap.wrap(f"{one_line(shown.title)}   {_score(shown)}", width)
    return shown.test, [*head, "", *message, *_also(cause, width)]


def _score(of: Record | Tally) -> str:
    return f"{show_points(of.points)} of {amount(of.max_points)}"


def _also(cause: Cause, width: int) -> list[str]:
    """The other tests with the same cause, under the label `also`."""
    if not cause.alike:
        return []
    words, names = f"{alike(cause)}:", _names(cause.alike)
    lines = _wrapped([words, *names], width - INDENT)
    kept = len(names)
    while len(lines) > NAMED + 1:
        kept -= 1
        lines = _wrapped([words, *names[:kept], f"and {len(names) - kept} more"], width - INDENT)
    return [f"{'' if number else 'also':<{INDENT}}{line}" for number, line in enumerate(lines)]


def _names(records: Iterable[Record]) -> list[str]:
    """The names of tests, those that differ only in their parameters in one: `test_scale[float16, float64]`."""
    parameters: dict[str, list[str]] = {}
    for record in records:
        name, _, parameter = one_line(record.test).partition("[")
        parameters.setdefault(name, []).extend([parameter.removesuffix("]")] if parameter else [])
    return [f"{name}[{', '.join(each)}]" if each else name for name, each in parameters.items()]


def _wrapped(words_and_names: list[str], width: int) -> list[str]:
    words, *names = words_and_names
    text = f"{words} {', '.join(names)}"
    return textwrap.wrap(text, max(width, 20), break_on_hyphens=False)


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
    lines += [clip(f"handouts: {path}", width) for path in _handouts(grade)]
    for finding, points in reviews(grade).items():
        words = f"for review, {amount(points)}: {one_line(finding)}"
        lines += textwrap.wrap(words, width, subsequent_indent="  ", break_on_hyphens=False)
    return lines


def _handouts(grade: Grade) -> list[str]:
    """The paths of the handouts of several unstarted exercises: for each week, one with NAME for the exercise."""
    if sum(bool(tally.count("not started")) for tally in grade.by_exercise().values()) < 2:
        return []  # the advice names it
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
    first = "Next" if grade.implementation == "exercises" else f"Next for {one_line(grade.implementation)}"
    if errors := grade.count("error"):
        broken = _first(grade, "error")
        location = f"in {count(errors, 'test')}, first in {_quoted(broken)} of {one_line(broken.exercise)}"
        return f"The grader itself broke {location}. That is not your fault: please report it."
    if missed := grade.count("not reached"):
        return f"The run ended before {count(missed, 'test')} {'was' if missed == 1 else 'were'} reached; they count 0."
    if grade.count("failed"):
        tally = next(tally for tally in grade.by_exercise().values() if tally.count("failed"))
        return f"{first}: {_mending(causes(tally)[0])}"
    if grade.count("not started"):
        unstarted = _first(grade, "not started")
        tally = grade.by_exercise()[unstarted.exercise]
        unearned = (each.max_points - each.points for each in tally.records if each.verdict == "not started")
        points = amount(sum(unearned))
        exercise, handout = one_line(unstarted.exercise), unstarted.handout
        if any(each.verdict == "passed" for each in tally.records):
            return f"{first}: go on with {exercise}, {points} to earn: {_quoted(unstarted)}.{_reading(handout)}"
        return f"{first}: start {exercise}, {points} to earn.{_reading(handout and handout.partition('#')[0])}"
    if not any(record.counted for record in grade.records):
        return "Nothing could be graded here."
    if grade.implementation != "exercises":
        return f"{one_line(grade.implementation)}: all {amount(grade.max_points)} that can be earned here."
    return f"Well done: you have earned all {amount(grade.max_points)} that can be earned here."


def _mending(cause: Cause) -> str:
    shown = cause.shown
    if cause.whole_file:
        return f"make {one_line(shown.exercise)}.py load."
    others = f"; {amount(cause.lost)} in all" if cause.alike else ""
    return f"make {_quoted(shown)} of {one_line(shown.exercise)} pass{others}.{_reading(shown.handout)}"


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

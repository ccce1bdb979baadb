"""`python -m grading conformance`: the points of the libraries in the graded tests, for docs/conformance.md."""

from __future__ import annotations

import re
from pathlib import Path

from grading.author.inner_run import grade_tree
from grading.course.layout import Course
from grading.course.trees import find_tree, known_trees
from grading.data.record import Tally, show_points

BEGIN, END = "<!-- conformance: python -m grading conformance -->", "<!-- end of conformance -->"


def write_table(course: Course, page: Path) -> str:
    """Grade every library, put the table between its marks on the page, and return it."""
    table = conformance(course)
    put_between(page, BEGIN, END, table)
    return table


def put_between(page: Path, begin: str, end: str, table: str) -> None:
    """Replace the text between two marks. ValueError if either mark is missing."""
    text = page.read_text("utf-8")
    if begin not in text or end not in text:
        raise ValueError(f"{page.name} must have the lines {begin} and {end} around the table")
    head, tail = text.partition(begin)[0], text.partition(end)[2]
    page.write_text(f"{head}{begin}\n\n{table}\n{end}{tail}", "utf-8")


def conformance(course: Course) -> str:
    """A row for each exercise and a column for each library, followed by what each library does differently."""
    libraries = [name for name in known_trees(course) if name not in ("exercises", "solutions")]
    rows: list[list[str]] = []
    differences: dict[tuple[str, str], dict[str, str]] = {}  # the first reason for each title
    missing: dict[tuple[str, str], dict[str, str]] = {}  # of the tests that a library takes no part in, alike
    for exercise in course.exercises:
        cells = []
        for name in libraries:
            tree = find_tree(course, name, course.root)
            tally: Tally = Tally(()) if tree.file(exercise) is None else grade_tree(course, exercise, tree)
            cells.append(_cell(tally))
            for record in tally.records:
                for verdict, kept in (("failed", differences), ("not offered", missing)):
                    if record.verdict == verdict:
                        reasons = kept.setdefault((name, exercise), {})
                        reasons.setdefault(_without_parameters(record.title), " ".join(record.reason.split()))
        if any(cells):
            rows.append([f"[{exercise}](../exercises/{exercise}.md)", *cells])
    header = ["points earned of those offered", *(f"`{name}`" for name in libraries)]
    lines = [header, ["---", *("---:" for _ in libraries)], *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    differing = [
        f"**`{name}`, {exercise}**\n\n" + "".join(f"- {title}: {why}\n" for title, why in reasons.items())
        for (name, exercise), reasons in differences.items()
    ]
    lacking = [
        f"**`{name}`, {exercise}**\n\n" + "".join(f"- {why}\n" for why in dict.fromkeys(reasons.values()))
        for (name, exercise), reasons in missing.items()
    ]
    sections = {"Where they differ": differing, "What they do not offer": lacking}
    told = (f"\n## {heading}\n\n" + "\n".join(parts) for heading, parts in sections.items() if parts)
    return f"{table}\n" + "".join(told)


def _without_parameters(title: str) -> str:
    return re.sub(r" \[[^]]*\]$", "", title)


def _cell(tally: Tally) -> str:
    if not tally.max_points:
        return ""
    return f"{show_points(tally.points)}/{show_points(tally.max_points)}"

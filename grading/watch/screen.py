"""What `watch` shows: points, the first thing to mend, and the keys; redrawn in place."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markdown import Markdown
from rich.rule import Rule
from rich.segment import Segment
from rich.syntax import Syntax
from rich.text import Text

from grading.course.layout import Course
from grading.course.trees import Tree
from grading.data.record import Grade, Record, show_points
from grading.reports.causes import causes
from grading.reports.terminal import INDENT, bar, failures, next_step
from grading.reports.wording import amount, count
from grading.session.finish import COLOURS

WIDTH = 80


@dataclass
class View:
    """What is known of the exercise that is being watched."""

    course: Course
    exercise: str
    tree: Tree
    records: dict[str, Record] = field(default_factory=dict)  # by test, the newest of each
    fresh: set[str] = field(default_factory=set)  # the tests that ran since the last save
    running: bool = False
    first_verdict: float | None = None  # seconds after the save
    problem: str = ""
    page: str = "first"  # or "all", "hint", "diff"
    top: int = 0  # the first line of the page that is shown
    step: int = 0  # how many lines further the next part of the page begins; 0 if all of it is shown

    @property
    def grade(self) -> Grade:
        ordered = sorted(self.records.values(), key=lambda record: record.line or 0)
        return Grade(tuple(ordered), implementation=self.tree.name)

    @property
    def done(self) -> bool:
        return bool(self.records) and not self.running and self.grade.complete

    def head(self) -> str:
        """One line: the exercise, its points, and how far the run is."""
        grade = self.grade
        ran = f"{len(self.fresh)} of {count(len(self.records), 'test')}" if self.records else "starting"
        state = f"{ran} …" if self.running else count(len(self.records), "test")
        quick = f", first verdict after {self.first_verdict:.1f} s" if self.first_verdict is not None else ""
        points = f"{show_points(grade.points)} of {amount(grade.max_points)}"
        return f"{self.exercise}  {points}  {bar(grade)}  {state}{quick}"

    def lines(self, every: bool) -> list[tuple[str, list[str]]]:
        """The first failure, or every one: a heading and the lines below it."""
        (tally,) = self.grade.by_exercise().values() or [None]
        found = failures(tally, WIDTH) if tally is not None else []
        return found if every else found[:1]

    def advice(self) -> str:
        return next_step(self.grade) or ""

    def hint(self) -> str:
        """The section of the handout that the first failure, or the first open test, is about."""
        open_ = [record for record in self.grade.records if record.verdict == "not started"]
        tallies = self.grade.by_exercise().values()
        shown = [cause.shown for tally in tallies for cause in causes(tally)] + open_
        handout, _, anchor = (shown[0].handout or "" if shown else "").partition("#")
        path = self.course.root / handout if handout else self.course.handout(self.exercise)
        return section(path, anchor)

    def difference(self) -> str:
        """The solution against the submission, once every point is earned."""
        if not self.done:
            return ""
        mine, theirs = self.tree.source(self.exercise), self.course.solution(self.exercise).read_text("utf-8")
        sides = mine.splitlines(), theirs.splitlines()
        return "\n".join(difflib.unified_diff(*sides, f"your {self.exercise}.py", "the solution", lineterm=""))


def section(path: Path, anchor: str) -> str:
    """A section of a handout: from its anchor or heading to the next heading of the same level."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    start = level = 0
    for number, line in enumerate(lines):
        mark = len(line) - len(line.lstrip("#"))
        if not mark:
            continue
        name = line.lstrip("#").strip().lower().replace(" ", "-")
        anchored = f'id="{anchor}"' in "".join(lines[max(0, number - 2) : number + 1])
        if level and mark <= level:
            return "\n".join(lines[start:number])
        if not level and anchor and (name == anchor or anchored):
            start, level = number, mark
    return "\n".join(lines[start:] if level or not anchor else lines)


KEYS = {"h": "hint", "a": "all failures", "n": "next exercise", "d": "the solution", "q": "quit"}
MORE = "space"


@dataclass
class Screen:
    """The whole screen: a line about the exercise, as much of the page as fits, and the keys."""

    view: View

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view = self.view
        yield Text(view.head(), style="bold", no_wrap=True, overflow="ellipsis")
        yield Rule(style="dim")
        height = console.height - 4  # beside two rules and two lines
        lines = console.render_lines(Group(*page(view)), options.update(height=None), pad=False)
        view.top = 0 if view.top >= len(lines) else view.top
        more = len(lines) > height
        for line in lines[view.top : view.top + height] if more else lines:
            yield from line
            yield Segment.line()
        view.step = height - 2 if more else 0
        yield Rule(style="dim")
        keys = {MORE: "more"} if more else {}
        keys |= {key: what for key, what in KEYS.items() if key != "d" or view.done}
        words = [Text.assemble((key, "bold"), f" {what}") for key, what in keys.items()]
        yield Text("   ").join(words)


def page(view: View) -> list[RenderableType]:
    """What stands between the two rules."""
    match view.page:
        case "hint":
            return [Markdown(view.hint())]
        case "diff" if view.done:
            return [Syntax(view.difference() or "Yours is the same.", "diff", background_color="default")]
        case "diff":
            return [Text("The solution is shown once every point is earned.")]
    parts: list[RenderableType] = []
    for heading, lines in view.lines(every=view.page == "all"):
        parts += [Text(heading, style="bold red"), *map(coloured, lines), Text()]
    if view.problem:
        parts.append(Text(f"The grader could not go on: {view.problem}", style="red"))
    if view.records and not view.running:
        parts.append(Text(view.advice()))
    return parts


def coloured(line: str) -> Text:
    """A line of a failure, its label in colour."""
    style = COLOURS.get(line[:INDENT].strip())
    return Text.assemble((line[:INDENT], f"bold {style}"), line[INDENT:]) if style else Text(line)

"""Tests of the tests: does each exercise reject wrong answers, accept its solution, and teach?

`python -m grading check` reports what is wrong. It runs the graded tests on the stub, the solution, the solution with
spoiled outputs and every known mistake, all in this process.
"""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass, field
from pathlib import Path

from grading.author.inner_run import UncollectedError, grade_tree
from grading.author.spoil import SPOILS, unrefused, unspoiled
from grading.author.stubs import stale_stubs
from grading.course.layout import Course
from grading.course.trees import find_tree
from grading.data.record import Grade, Record, show_points
from grading.mistakes.bank import Mistake, MistakeError, load_bank

NAMED_SHARE = 0.9  # of the mistakes that are looked up must be recognised by name; one may always be missed
FEWEST_MISTAKES = 8


@dataclass
class Findings:
    """What is wrong with an exercise, and what its bank of mistakes showed."""

    problems: list[str] = field(default_factory=list)
    mistakes: int = 0  # that are known
    lost: int = 0  # that lose points
    tried: int = 0  # that were looked up by name
    named: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    misnamed: dict[str, str] = field(default_factory=dict)

    @property
    def nameless(self) -> list[str]:
        return [*self.unnamed, *self.misnamed]


def check_exercise(course: Course, exercise: str, whole: bool = False, quick: bool = False) -> Findings:
    """Check one exercise.

    `whole`: run every test on a mistake, even after it is recognised. `quick`: try to recognise only every eighth
    mistake, and stop at the first lost point of the others; recognition is what takes time.
    """
    findings = Findings()
    problems = findings.problems
    for path, what in (
        (course.solution(exercise), "has no solution: write it first, the stub is generated from it"),
        (course.handout(exercise), "has no handout: explain what the student needs to know"),
        (course.handout(exercise, "ko"), "has no Korean handout"),
    ):
        if not path.is_file():
            problems.append(f"{exercise} {what} ({path.relative_to(course.root)}).")
    if not course.solution(exercise).is_file():
        return findings
    if course.stub(exercise) in stale_stubs(course.root):
        problems.append(f"{exercise}: the stub is out of date; run python -m grading stubs.")

    try:
        stub = grade_tree(course, exercise, find_tree(course, "exercises", course.root))
        solution = grade_tree(course, exercise, find_tree(course, "solutions", course.root))
    except UncollectedError as error:
        problems.append(f"{exercise}: its graded tests can't be collected: {error}.")
        return findings
    if stub.points:
        problems.append(f"{exercise}: the stub earns {show_points(stub.points)} points without any code.")
    if not solution.records:
        problems.append(f"{exercise} has no graded tests in {course.tests(exercise).relative_to(course.root)}.")
        return findings
    if not sum(record.max_points for record in solution.records):
        problems.append(f"{exercise} has no points: mark its tests with @pytest.mark.points(…).")
    for record in solution.records:
        if record.verdict in ("failed", "error", "not started"):
            problems.append(f"{exercise}: the solution loses points in {record.test}: {record.reason}")
        if not record.max_points:
            problems.append(f"{exercise}: {record.test} has no points; mark it with @pytest.mark.points(…).")
        if record.handout and not handout_has(course, record.handout):
            problems.append(f"{exercise}: {record.test} points to {record.handout}, which has no such section.")
    for spoil in SPOILS:
        for name in unspoiled(course, exercise, solution, spoil):
            problems.append(f"{exercise}: {name} passes although the output is {SPOILS[spoil]}.")
    for name in unrefused(course, exercise):
        advice = "give raises(…, unlike=…) an ordinary call"
        problems.append(f"{exercise}: {name} earns points although every call is refused; {advice}.")
    check_mistakes(course, exercise, findings, solution, whole, quick)
    return findings


def check_mistakes(
    course: Course, exercise: str, findings: Findings, solution: Grade, whole: bool, quick: bool
) -> None:
    """Each known mistake must lose points, and most must be recognised by name."""
    try:
        bank = load_bank(course, exercise)
    except MistakeError as error:
        findings.problems.append(str(error))
        return
    findings.mistakes = len(bank)
    if len(bank) < FEWEST_MISTAKES:
        findings.problems.append(f"{exercise} has {len(bank)} known mistakes; it needs at least {FEWEST_MISTAKES}.")
    latest = ""  # the test that rejected the previous mistake
    wanted_names = bank[::8] if quick else bank
    forgiven = max(1, (1 - NAMED_SHARE) * len(wanted_names))
    for mistake in bank:
        if mistake.handout and not handout_has(course, f"{course.handout(exercise)}#{mistake.handout}"):
            section = f"the section {mistake.handout!r}, which the handout lacks"
            findings.problems.append(f"{exercise}: the mistake {mistake.name!r} points to {section}.")
        try:
            tree = mistake.tree(course)
        except MistakeError as error:
            findings.problems.append(str(error))
            continue
        wanted = mistake in wanted_names
        tests = likely_first(solution, changed_definition(course, mistake), latest, hurry=not wanted)
        findings.tried += wanted
        stop = None if whole else _is_named if wanted else _is_lost
        for _ in range(2):  # timings may differ from run to run
            grade = grade_tree(course, exercise, tree, tests, until=stop, recognise=wanted)
            named = {name for record in grade.records for name in record.mistakes}
            lost = grade.points < grade.max_points
            forgiving = not wanted or (quick and len(findings.nameless) + 1 <= forgiven)
            if named == {mistake.name} or (lost and forgiving):
                break
        tree.unload()
        latest = next((record.test for record in grade.records if _is_lost(record)), latest)
        findings.lost += lost
        if not lost:
            findings.problems.append(
                f"{exercise}: the known mistake {mistake.name!r} loses no points: the graded tests have a hole."
            )
        elif named == {mistake.name}:
            findings.named.append(mistake.name)
        elif named:
            findings.misnamed[mistake.name] = ", ".join(sorted(named))
        elif wanted:
            findings.unnamed.append(mistake.name)
    if len(findings.nameless) > forgiven:
        findings.problems.append(
            f"{exercise}: {len(findings.nameless)} of {findings.tried} known mistakes are not recognised by name: "
            f"{', '.join(findings.nameless)}."
        )


def likely_first(solution: Grade, changed: str, latest: str, hurry: bool) -> list[str]:
    """The tests, starting with those that are likely to reject a mistake.

    First `latest`, which rejected the previous mistake, usually of something nearby; then those that mention the
    `changed` definition, in the order of their file, as in a student's run. In a `hurry` the fastest come first, and
    mentioning the definition counts as being ten times as fast. Tests of speed come last: they take longest and
    recognise nothing.
    """

    def rank(record: Record) -> tuple[bool, bool, float]:
        elsewhere, of_speed = changed not in record.test_code, "ratio" in record.figures
        rest = record.seconds * (10 if elsewhere else 1) if hurry else elsewhere
        return of_speed, record.test != latest, rest

    return [record.test for record in sorted(solution.records, key=rank)]


def _is_named(record: Record) -> bool:
    return bool(record.mistakes)


def _is_lost(record: Record) -> bool:
    return record.verdict in ("failed", "error")


def changed_definition(course: Course, mistake: Mistake) -> str:
    """The public function or class of the solution that a mistake changes; empty for a private helper."""
    source = course.solution(mistake.file).read_text("utf-8")
    line = source[: source.find(mistake.changes[0][0])].count("\n") + 1
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.lineno <= line <= (node.end_lineno or 0):
            return "" if node.name.startswith("_") else node.name
    return ""


def handout_has(course: Course, link: str) -> bool:
    """Whether the file that a link names exists and has the section, as an anchor or a heading."""
    path, _, section = link.partition("#")
    file = Path(os.path.normpath(course.root / path))
    if not section:
        return True
    if not file.is_file():
        return False
    text = file.read_text("utf-8")
    headings = [line.lstrip("#").strip().lower().replace(" ", "-") for line in text.splitlines() if line[:1] == "#"]
    return f'id="{section}"' in text or section in headings

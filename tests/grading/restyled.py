"""How many known mistakes are recognised when they are made in another style than the solution's?

    python -m tests.grading.restyled week2/langgraph_agent

Beside a right answer in another style, `styles/STYLE/weekN/NAME.toml` says how mistakes of the bank look in it: tables
with a mistake's name and its replacements, written as in the bank. Each is graded like a hand-in, until a test names a
mistake or three have failed.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grading.author.check import changed_definition, likely_first
from grading.author.inner_run import grade_tree
from grading.course.layout import Course
from grading.course.trees import find_tree
from grading.data.record import Record
from grading.mistakes.bank import Mistake, load_bank

ROOT = Path(__file__).parents[2]
STYLES = Path(__file__).parent / "styles"
TRIED = 3  # failing tests whose look-ups may name the mistake
ENOUGH = 0.7  # of the mistakes, in the agents' exercises and in evaluation


@dataclass(frozen=True)
class Restyled:
    """A known mistake made in another style."""

    style: str
    mistake: Mistake  # its changes are those to the style's file

    def names(self, course: Course) -> set[str] | None:
        """The names that it gets; None if it loses no points."""
        exercise = self.mistake.exercise
        base = find_tree(course, str(STYLES / self.style), course.root)
        tree = base.overlaid(
            f"{self.mistake.name} in {self.style}", exercise, self.mistake.apply(base.source(exercise))
        )
        failed: list[Record] = []

        def seen_enough(record: Record) -> bool:
            if record.verdict == "failed":
                failed.append(record)
            return bool(record.mistakes) or len(failed) == TRIED

        grade_tree(course, exercise, tree, self._tests(course), until=seen_enough, recognise=True)
        tree.unload()
        return {name for record in failed for name in record.mistakes} if failed else None

    def _tests(self, course: Course) -> list[str]:
        """All tests, those first that are likely to reject the mistake."""
        exercise = self.mistake.exercise
        solution = grade_tree(course, exercise, find_tree(course, "solutions", course.root))
        (known,) = (each for each in load_bank(course, exercise) if each.name == self.mistake.name)
        return likely_first(solution, changed_definition(course, known), "", hurry=False)


def restyled(exercise: str) -> Iterator[Restyled]:
    """The mistakes of an exercise in all styles that have them."""
    for path in sorted(STYLES.glob(f"*/{exercise}.toml")):
        for name, table in tomllib.loads(path.read_text("utf-8")).items():
            changes = tuple((each["old"], each["new"]) for each in table.get("changes", [table]))
            style = path.relative_to(STYLES).parts[0]
            yield Restyled(style, Mistake(name, exercise, "", "", exercise, changes))


def main(exercises: list[str]) -> int:
    course, status = Course(ROOT), 0
    for exercise in exercises or [each for each in course.exercises if next(restyled(each), None)]:
        outcomes: dict[str, list[str]] = {"named": [], "unnamed": [], "misnamed": [], "unpunished": []}
        for each in restyled(exercise):
            names = each.names(course)
            outcome = "unpunished" if names is None else "unnamed" if not names else "misnamed"
            outcomes["named" if names == {each.mistake.name} else outcome].append(each.mistake.name)
            print(f"  {each.mistake.name}: {outcome if names != {each.mistake.name} else 'named'}", flush=True)
        tried = sum(map(len, outcomes.values()))
        print(f"{exercise}: {len(outcomes['named'])} of {tried} named, {len(outcomes['misnamed'])} wrongly", flush=True)
        status |= len(outcomes["named"]) < ENOUGH * tried or bool(outcomes["misnamed"])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

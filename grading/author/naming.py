"""Are the names right? Hand-ins with several known mistakes, and names that must not depend on the tests that ran."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from grading.author.inner_run import grade_tree
from grading.course.layout import Course
from grading.course.trees import Tree
from grading.data.record import Grade
from grading.mistakes.bank import Mistake, MistakeError, load_bank
from grading.mistakes.variants import Variants
from grading.session.session import PATIENCE_FOR_SEVERAL

ATTEMPTS = 200  # to draw mistakes that fit together


@dataclass(frozen=True)
class Bank:
    """The known mistakes of one exercise, to draw from."""

    course: Course
    exercise: str

    @cached_property
    def variants(self) -> Variants:
        return Variants(self.course, self.exercise)

    @cached_property
    def mistakes(self) -> list[Mistake]:
        return load_bank(self.course, self.exercise)

    def draw(self, number: int, same: bool, rng: random.Random) -> tuple[tuple[Mistake, ...], Tree] | None:
        """Mistakes of one top-level name, or each of another, and the solution with them; None if there are none."""
        for _ in range(ATTEMPTS):
            chosen = tuple(sorted(rng.sample(self.mistakes, number), key=self.mistakes.index))
            places = [self.variants.touched(mistake) or {mistake.file} for mistake in chosen]
            apart = len(set().union(*places)) == sum(map(len, places))
            if not (set.intersection(*places) if same else apart):
                continue
            try:
                return chosen, self.variants.tree(chosen)
            except MistakeError:
                continue
        return None


@dataclass(frozen=True)
class Named:
    """A hand-in with several mistakes, and what it was told."""

    exercise: str
    same: bool  # whether all mistakes are of one function or class
    mistakes: tuple[str, ...]
    grade: Grade

    @property
    def names(self) -> set[str]:
        return {name for record in self.grade.records for name in record.mistakes}

    @property
    def found(self) -> set[str]:
        return self.names & set(self.mistakes)

    @property
    def wrong(self) -> set[str]:
        return self.names - set(self.mistakes)

    def __str__(self) -> str:
        sign = "✗" if self.wrong else "✓" if len(self.found) == len(self.mistakes) else "·"
        where = "one function" if self.same else "different functions"
        parts = [f"{sign} {self.exercise}, {where}: {', '.join(self.mistakes)}"]
        if missed := set(self.mistakes) - self.found:
            parts.append(f"not named: {', '.join(sorted(missed))}")
        if self.wrong:
            parts.append(f"wrongly named: {', '.join(sorted(self.wrong))}")
        return "; ".join(parts)


def several(course: Course, exercises: Sequence[str], number: int, samples: int, seed: int) -> Iterator[Named]:
    """Grades hand-ins with so many known mistakes each, drawn at random, every other time of one function."""
    rng = random.Random(f"{seed} {number}")
    banks = [Bank(course, exercise) for exercise in exercises]
    for sample in range(samples):
        drawn, same = None, bool(sample % 2)
        while drawn is None:
            bank = rng.choice(banks)
            drawn = bank.draw(number, same, rng)
        mistakes, tree = drawn
        grade = grade_tree(course, bank.exercise, tree, recognise=True, several=PATIENCE_FOR_SEVERAL)
        bank.variants.drop(tree)
        yield Named(bank.exercise, same, tuple(mistake.name for mistake in mistakes), grade)


def summary(results: Sequence[Named]) -> str:
    """`34 of 40 pairs have both named, …`."""
    if not results:
        return ""
    number = len(results[0].mistakes)
    what, all_ = ("pairs", "both") if number == 2 else (f"sets of {number}", "all")
    complete = [each for each in results if len(each.found) == number]
    parts = [f"{sum(each.same == same for each in complete)} of {sum(each.same == same for each in results)} {where}"
             for same, where in ((False, "of different functions"), (True, "of one function"))]  # fmt: skip
    partly = sum(0 < len(each.found) < number for each in results)
    wrong = sum(bool(each.wrong) for each in results)
    return (
        f"{len(complete)} of {len(results)} {what} have {all_} named ({', '.join(parts)}), {partly} some, "
        f"{wrong} are named wrongly"
    )


def selections(course: Course, exercise: str, every: int = 1) -> Iterator[tuple[str, int, list[str]]]:
    """For each known mistake: its name, the number of names compared, and the tests whose name depends on what was run.

    The names of the whole run are compared with those of the failed tests alone (`--lf`), of the failed tests of one
    function (`-k`), and of each failed test by itself (a node id).
    """
    for mistake in load_bank(course, exercise)[::every]:
        tree = mistake.tree(course)

        def names(tests: Sequence[str] | None = None, tree: Tree = tree) -> dict[str, tuple[str, ...]]:
            grade = grade_tree(course, exercise, tree, tests, recognise=True, several=PATIENCE_FOR_SEVERAL)
            return {record.test: record.mistakes for record in grade.records if record.verdict == "failed"}

        whole = names()
        failed = list(whole)
        functions = {re.sub(r"\[.*", "", test) for test in failed}
        chosen = [failed, *([test for test in failed if test.partition("[")[0] == each] for each in sorted(functions))]
        chosen += [[test] for test in failed]
        compared, different = 0, set()
        for tests in chosen if failed else []:
            for test, found in names(tests).items():
                compared += 1
                if found != (before := whole.get(test, ())):
                    which = ", ".join(tests) if len(tests) < 4 else f"{len(tests)} tests"
                    change = f"{', '.join(found) or 'nothing'}, not {', '.join(before) or 'nothing'}"
                    different.add(f"{test} (of {which}): {change}")
        tree.unload()
        yield mistake.name, compared, sorted(different)

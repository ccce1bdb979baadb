"""Are the limits on speed right? Implementations that must pass them and ones that must not, on this machine.

`python -m benchmarks.limits` runs the graded speed tests that need no GPU on the solution, on the correct answers in
other styles in tests/grading/styles, as students write them, and on the known mistakes that are merely too slow: five
times while the machine is idle and five times while another program keeps every core busy. It writes the results to
benchmarks/MACHINE/limits.md and takes a quarter of an hour.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.calibration import load
from grading.author.inner_run import grade_tree
from grading.course.layout import Course
from grading.course.trees import Tree, find_tree
from grading.data.record import Record, Verdict
from grading.judge.hardware import machine_kind
from grading.mistakes.bank import load_bank

ROOT = Path(__file__).parents[1]
TIMES = 5
NAIVE = {"week1/selective_scan": "one-position-after-the-other"}  # known mistakes that are merely too slow


@dataclass(frozen=True)
class Side:
    """An implementation, and the verdict that speed tests must reach on it."""

    exercise: str
    name: str
    tree: Tree
    tests: tuple[str, ...]
    expected: Verdict


def sides(course: Course) -> Iterator[Side]:
    for exercise, naive in NAIVE.items():
        solution = find_tree(course, "solutions", ROOT)
        tests = tuple(each.test for each in grade_tree(course, exercise, solution).records if "ratio" in each.figures)
        yield Side(exercise, "the solution", solution, tests, "passed")
        for style in sorted((ROOT / "tests/grading/styles").glob(f"*/{exercise}.py")):
            name = style.parents[1].name
            yield Side(
                exercise, f"another style, {name}", find_tree(course, str(style.parents[1]), ROOT), tests, "passed"
            )
        (mistake,) = [each for each in load_bank(course, exercise) if each.name == naive]
        yield Side(exercise, f"naive, {naive}", mistake.tree(course), tests, "failed")


def main() -> int:
    course = Course(ROOT)
    found = list(sides(course))
    records: dict[tuple[str, str, bool], list[Record]] = {}
    for busy in (False, True):
        with load(busy):
            for _, side in tqdm([(time, side) for time in range(TIMES) for side in found], disable=None):
                for record in grade_tree(course, side.exercise, side.tree, side.tests).records:
                    records.setdefault((record.id, side.name, busy), []).append(record)
    lines = [
        "# The limits on speed, and which implementations meet them",
        "",
        f"`python -m benchmarks.limits` on {machine_kind()}: the speed relative to the test's reference, as the median "
        f"and the extremes of {TIMES} judgements.",
        "",
        "| test | limits | implementation | expected | idle | as expected | every core busy | as expected |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side in found:
        for test in side.tests:
            both = [records[f"{side.exercise}::{test}", side.name, busy] for busy in (False, True)]
            row = [test, ", ".join(both[0][0].parts), side.name, side.expected]
            for each in both:
                ratios = [float(record.figures["ratio"]) for record in each if "ratio" in record.figures]
                row.append(show(ratios))
                row.append(f"{sum(record.verdict == side.expected for record in each)} of {len(each)}")
            lines.append(f"| {' | '.join(row)} |")
    text = "\n".join(lines) + "\n"
    path = ROOT / "benchmarks" / machine_kind() / "limits.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    print(text)
    expected = {(f"{side.exercise}::{test}", side.name): side.expected for side in found for test in side.tests}
    return int(any(record.verdict != expected[key[:2]] for key, each in records.items() for record in each))


def show(ratios: list[float]) -> str:
    if not ratios:  # a wrong answer, or a suspicious clock
        return "not compared"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    sys.exit(main())

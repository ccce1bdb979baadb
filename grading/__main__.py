"""`python -m grading stubs`, `check` and `conformance`: the commands of whoever writes exercises."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from pathlib import Path

from grading.course import Course


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m grading", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the course (default: this directory)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("stubs", help="write exercises/weekN/NAME.py from the solutions")
    check = commands.add_parser("check", help="refuse what is wrong with an exercise, in sentences")
    check.add_argument("exercises", nargs="*", help="week1/self_attention, week1/*; all where none is named")
    check.add_argument(
        "--whole", action="store_true", help="run every test on every mistake, not only until it is named"
    )
    check.add_argument(
        "--quick", action="store_true", help="look for the name of every eighth mistake only; all must lose points"
    )
    commands.add_parser("conformance", help="grade the libraries under tests/libraries, for the table in README.md")
    options = parser.parse_args(arguments)
    course = Course(options.root.resolve())
    if not course.solutions_root.is_dir():
        parser.error(f"--root {options.root}: no solutions/ there")
    match options.command:
        case "stubs":
            return stubs(course)
        case "check":
            return check_all(course, options.exercises, options.whole, options.quick)
        case _:
            return conformance(course)


def stubs(course: Course) -> int:
    from grading.stubs import write_stubs

    written = write_stubs(course.root)
    for path in written:
        print(f"wrote {path.relative_to(course.root)}")
    if not written:
        print("every stub is in step with its solution")
    return 0


def conformance(course: Course) -> int:
    from grading.conformance import write_table

    print(write_table(course, course.root / "README.md"))
    return 0


def check_all(course: Course, patterns: list[str], whole: bool, quick: bool) -> int:
    from grading.check import check_exercise

    names = [n for n in course.exercises if not patterns or any(fnmatch.fnmatch(n, each) for each in patterns)]
    if not names:
        print(
            f"no exercise is called {' or '.join(patterns)}; there are {', '.join(course.exercises)}", file=sys.stderr
        )
        return 4
    refused = 0
    for name in names:
        started = time.perf_counter()
        findings = check_exercise(course, name, whole, quick)
        for problem in findings.problems:
            print(f"✗ {problem}")
        refused += len(findings.problems)
        print(
            f"{'✗' if findings.problems else '✓'} {name}: "
            f"{'all' if findings.lost == findings.mistakes else findings.lost} of {findings.mistakes} known mistakes "
            f"lose points, {len(findings.named)} of {findings.tried} recognised by name, "
            f"{time.perf_counter() - started:.0f} s"
        )
        for mistake, other in findings.misnamed.items():
            print(f"    {mistake} is taken for {other}")
        if findings.unnamed:
            print(f"    not recognised: {', '.join(findings.unnamed)}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())

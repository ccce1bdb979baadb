"""Commands beside pytest's: `watch` for students, `accept`, `regrade` and `doctor` for instructors; `stubs`, `check`,
`naming`, `conformance` and `benchmarks` for authors."""

from __future__ import annotations

import argparse
import fnmatch
import getpass
import random
import sys
import time
from pathlib import Path

from grading.course.layout import Course


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m grading", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the course (default: the current directory)")
    commands = parser.add_subparsers(dest="command", required=True)
    watch = commands.add_parser("watch", help="grade an exercise anew at every save, and show what to mend first")
    watch.add_argument("exercise", nargs="?", help="week1/moe (default: the first that is not finished)")
    watch.add_argument("--impl", metavar="TREE", default="exercises", help="what to grade (default: exercises)")
    commands.add_parser("stubs", help="generate exercises/weekN/NAME.py from the solutions")
    check = commands.add_parser("check", help="report what is wrong with an exercise")
    check.add_argument("exercises", nargs="*", help="week1/self_attention, week1/* (default: all)")
    check.add_argument(
        "--whole", action="store_true", help="run every test on every mistake, even after it is recognised"
    )
    check.add_argument(
        "--quick", action="store_true", help="try to recognise only every eighth mistake; all must still lose points"
    )
    naming = commands.add_parser("naming", help="report how often known mistakes are named, several of them at once")
    naming.add_argument("exercises", nargs="*", help="week1/self_attention, week1/* (default: all)")
    naming.add_argument("--pairs", type=int, default=40, help="hand-ins with two mistakes (default: %(default)s)")
    naming.add_argument("--triples", type=int, default=20, help="hand-ins with three mistakes (default: %(default)s)")
    naming.add_argument("--seed", type=int, help="of the sample (default: a new one, which is printed)")
    naming.add_argument(
        "--selections",
        action="store_true",
        help="instead, compare the names of single mistakes in a whole run with those under --lf, -k and node ids",
    )
    naming.add_argument("--every", type=int, default=1, help="with --selections: only every n-th mistake of a bank")
    accept = commands.add_parser("accept", help="record that a person has looked at what is marked for review")
    accept.add_argument("report", type=Path, help="the folder of the reports, or its grade.json")
    accept.add_argument("words", nargs="*", help="only the findings that contain one of these, such as week1/moe.py")
    accept.add_argument("--by", default=getpass.getuser(), help="who has looked (default: %(default)s)")
    again = commands.add_parser(
        "regrade", help="grade a tree again as an earlier grade was, and say what changed and why"
    )
    again.add_argument("report", type=Path, help="the earlier grade.json, or the folder that holds it")
    again.add_argument("tree", help="what to grade, as --impl takes it")
    again.add_argument("options", nargs=argparse.REMAINDER, help="more options of pytest")
    commands.add_parser("conformance", help="grade the libraries under tests/libraries, for docs/conformance.md")
    kept = commands.add_parser("benchmarks", help="compare saved runs of the performance tests, and plot their history")
    kept_commands = kept.add_subparsers(dest="what", required=True)
    compare = kept_commands.add_parser("compare", help="compare a run with an earlier one; exit with 1 on a regression")
    compare.add_argument(
        "before", nargs="?", metavar="A", help="the earlier run: a file, or part of a saved run's name"
    )
    compare.add_argument(
        "now", nargs="?", metavar="B", help="the later run (default: the newest; then A defaults to the one before)"
    )
    kept_commands.add_parser("history", help="plot each test over the saved runs, and report where its level changed")
    commands.add_parser("doctor", help="report what this machine offers for grading, and which sandboxes work")
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        from grading.session.doctor import lines

        print("\n".join(lines()))
        return 0
    course = Course(options.root.resolve())
    if not course.solutions_root.is_dir():
        parser.error(f"--root {options.root}: no solutions/ in it")
    match options.command:
        case "watch":
            return watch_exercise(course, options.exercise, options.impl)
        case "stubs":
            return stubs(course)
        case "check":
            return check_all(course, options.exercises, options.whole, options.quick)
        case "naming" if options.selections:
            return compare_selections(course, options.exercises, options.every)
        case "naming":
            return name_several(course, options.exercises, options.pairs, options.triples, options.seed)
        case "regrade":
            return grade_again(course, options.report, options.tree, options.options)
        case "accept":
            return accept_findings(options.report, options.words, options.by)
        case "conformance":
            return conformance(course)
    if options.what == "history":
        return history(course)
    return compare_runs(course, options.before, options.now)


def watch_exercise(course: Course, exercise: str | None, impl: str) -> int:
    from grading.course.source import SourceError, unstarted
    from grading.course.trees import TreeError, find_tree
    from grading.watch.grader import can_fork

    def is_open(name: str) -> bool:
        try:
            return tree.file(name) is None or unstarted(tree.source(name), f"{name}.py")
        except SourceError:
            return True

    try:
        tree = find_tree(course, impl, Path.cwd())
    except TreeError as error:
        print(error, file=sys.stderr)
        return 4
    if exercise is None:
        exercise = next(filter(is_open, course.exercises), course.exercises[0])
    if not (names := matching(course, [exercise.removeprefix("exercises/").removesuffix(".py")])):
        return 4
    if not can_fork():
        print("watch needs an operating system that can fork processes: Linux, macOS, or WSL", file=sys.stderr)
        return 4
    from grading.watch.loop import watch

    return watch(course, names[0], tree)


def grade_again(course: Course, report: Path, tree: str, options: list[str]) -> int:
    from grading.session.regrade import RegradeError, changes, regrade

    tree = str(Path(tree).resolve()) if Path(tree).is_dir() and tree not in ("exercises", "solutions") else tree
    try:
        before, now = regrade(course, report, tree, options)
    except RegradeError as error:
        print(error, file=sys.stderr)
        return 4
    lines = changes(before, now)
    print("\n".join(lines))
    return int(len(lines) > 2)


def accept_findings(report: Path, words: list[str], by: str) -> int:
    from grading.reports import read_grade
    from grading.session.acceptance import accept

    folder = report.parent if report.name == "grade.json" else report
    try:
        new = accept(folder, read_grade(folder / "grade.json"), words, by)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 4
    for finding in new:
        print(f"accepted: {finding}")
    if not new:
        print("nothing to accept" + (f" that contains {' or '.join(words)}" if words else ""))
    return 0


def stubs(course: Course) -> int:
    from grading.author.stubs import write_stubs

    written = write_stubs(course.root)
    for path in written:
        print(f"wrote {path.relative_to(course.root)}")
    if not written:
        print("every stub is up to date")
    return 0


def conformance(course: Course) -> int:
    from grading.author.conformance import write_table

    print(write_table(course, course.conformance_page))
    return 0


def compare_runs(course: Course, before: str | None, now: str | None) -> int:
    from grading.history.compare import REGRESSIONS, compare, show
    from grading.history.runs import RunError, find_run, kept_runs, newest
    from grading.reports.wording import count

    try:
        kept = [] if before and now else kept_runs(course)
        if len(kept) < 2 - bool(before) - bool(now):
            raise RunError(
                f"benchmarks/ has {count(len(kept), 'saved run')}, too few to compare: save one with "
                "pytest exercises --impl solutions --benchmark-only --benchmark-autosave, or name two files"
            )
        b = find_run(course, now) if now else kept[-1]
        a = find_run(course, before) if before else newest(kept[:-1], b.machine)
    except RunError as error:
        print(error, file=sys.stderr)
        return 4
    findings = compare(a, b)
    print(show(a, b, findings))
    return int(any(finding.change in REGRESSIONS for finding in findings))


def history(course: Course) -> int:
    from grading.history.runs import kept_runs
    from grading.history.trend import draw

    for folder in course.machines():
        runs, figure = kept_runs(course, folder.name), folder / "history.svg"
        words = draw(runs, figure)
        print(f"{figure.relative_to(course.root)}: {len(runs)} runs")
        print("".join(f"    {line}\n" for line in words), end="")
    return 0


def name_several(course: Course, patterns: list[str], pairs: int, triples: int, seed: int | None) -> int:
    from grading.author.naming import Named, several, summary

    if not (names := matching(course, patterns)):
        return 4
    seed = random.randrange(10**6) if seed is None else seed
    print(f"seed {seed}")
    results: dict[int, list[Named]] = {}
    for number, samples in ((2, pairs), (3, triples)):
        results[number] = []
        for named in several(course, names, number, samples, seed):
            print(named, flush=True)
            results[number].append(named)
    for each in filter(None, results.values()):
        print(summary(each))
    return int(any(named.wrong for each in results.values() for named in each))


def compare_selections(course: Course, patterns: list[str], every: int) -> int:
    from grading.author.naming import selections

    if not (names := matching(course, patterns)):
        return 4
    refused = 0
    for exercise in names:
        mistakes = compared = 0
        for mistake, number, different in selections(course, exercise, every):
            mistakes, compared, refused = mistakes + 1, compared + number, refused + len(different)
            for line in different:
                print(f"✗ {exercise}, {mistake}: {line}", flush=True)
        print(f"{exercise}: {compared} names of {mistakes} mistakes compared with those of a whole run", flush=True)
    return int(bool(refused))


def matching(course: Course, patterns: list[str]) -> list[str]:
    """The exercises that match one of the patterns, all without patterns; says so where there are none."""
    names = [n for n in course.exercises if not patterns or any(fnmatch.fnmatch(n, each) for each in patterns)]
    if not names:
        print(
            f"no exercise matches {' or '.join(patterns)}; the exercises are {', '.join(course.exercises)}",
            file=sys.stderr,
        )
    return names


def check_all(course: Course, patterns: list[str], whole: bool, quick: bool) -> int:
    from grading.author.check import check_exercise

    if not (names := matching(course, patterns)):
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
            print(f"    {mistake} is mistaken for {other}")
        if findings.unnamed:
            print(f"    not recognised: {', '.join(findings.unnamed)}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())

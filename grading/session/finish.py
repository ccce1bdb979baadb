"""The end of a run: the grade, the exit status, the reports and the terminal's output."""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
import signal
import sys
import textwrap
import threading
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from grading.course.layout import Course
from grading.course.origin import content, origin
from grading.course.trees import TreeError
from grading.data.record import Grade
from grading.session.options import Options
from grading.session.session import Session

if TYPE_CHECKING:
    from grading.history.runs import Run

POINTS_MISSING = pytest.ExitCode.TESTS_FAILED
GRADER_BROKEN = pytest.ExitCode.INTERNAL_ERROR
INCOMPLETE = 6  # some tests were not reached
UNREPORTED = 7  # a report could not be written
WIDEST = 100  # columns of the tables
COLOURS = {
    **dict.fromkeys(("called", "where", "raised at", "printed", "note", "also"), "blue"),
    "expected": "green",
    "wrong": "red",
    "got": "red",
    "likely": "yellow",
    "read": "cyan",
}


def grade_of(session: Session) -> Grade:
    """The records so far, in the order of the course."""
    position = {name: number for number, name in enumerate(session.course.exercises)}
    known = {record.id: record for record in session.records}
    records = {**session.planned, **known}.values()
    ordered = sorted(records, key=lambda record: (position.get(record.exercise, 0), record.line or 0))
    seed = None if session.options.secret else session.options.seed
    return Grade(tuple(ordered), session.implementation, seed, environment(), session.identity)


def identified(session: Session) -> Grade:
    """The grade with hashes of what was graded and of what graded it."""
    grade = grade_of(session)
    tree = session.tree or next(iter(session.graded.values()), None)
    hashes = content(session.course, tree) if tree is not None else {}
    return replace(grade, identity={**grade.identity, **hashes})


def environment() -> dict[str, str]:
    """The software and hardware behind a grade. Versions are read from metadata, so nothing is imported."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in ("torch", "transformers", "pytest"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        found["gpu"] = sys.modules["torch"].cuda.get_device_name()
    return found


def report_problem(course: Course, options: Options, problem: TreeError) -> None:
    """Write the reports of a run that has nothing to grade."""
    if options.report is not None:
        from grading.reports import write_reports

        identity = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", **origin(course, None)}
        seed = None if options.secret else options.seed
        nothing = Grade((), options.impl or "exercises", seed, environment(), identity, str(problem))
        write_reports(nothing, options.report, course.root)


def stop_in_order() -> None:
    """Who ends the run by SIGTERM or SIGHUP gets the reports too, as with Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) == signal.SIG_DFL:
            signal.signal(getattr(signal, name), lambda *_: signal.raise_signal(signal.SIGINT))


class Finish:
    """What happens at the end of a run."""

    def __init__(self, session: Session, config: pytest.Config) -> None:
        self.session, self.config = session, config
        self.threads = set(threading.enumerate())
        self.status: int = pytest.ExitCode.OK
        self.earlier = _earlier_run(session.course, session.options.against)
        self.comparison = ""  # with the earlier run
        self.problem = ""  # with the reports

    def end(self, pytest_session: pytest.Session) -> None:
        """Set the exit status and write the reports."""
        if self.config.getoption("collectonly"):
            self.session.planned.clear()
        grade = grade_of(self.session)
        if grade.records and pytest_session.exitstatus in (pytest.ExitCode.OK, POINTS_MISSING):
            if grade.count("error"):
                pytest_session.exitstatus = GRADER_BROKEN
            elif grade.count("not reached"):
                pytest_session.exitstatus = INCOMPLETE
            elif not grade.complete or self._regressed():
                pytest_session.exitstatus = POINTS_MISSING
        if self.session.options.report is not None:
            from grading.reports import ReportError, write_reports

            try:
                write_reports(identified(self.session), self.session.options.report, self.session.course.root)
            except (ReportError, OSError) as error:
                self.problem = f"--report: {error}"
                pytest_session.exitstatus = UNREPORTED
        self.status = int(pytest_session.exitstatus)

    def leave(self) -> None:
        """End the process where threads of the submission would keep it alive."""
        left = [each for each in set(threading.enumerate()) - self.threads if not each.daemon]
        if left and self.session.records:
            from grading.reports.text import one_line

            name = one_line(left[0].name)
            print(f"whetstone: the submission left {len(left)} thread(s) running, which are ended: {name}, …")
            atexit._run_exitfuncs()
            sys.stdout.flush()
            os._exit(self.status)

    def _regressed(self) -> bool:
        """Whether a performance test got worse since the run of --against."""
        if self.earlier is None:
            return False
        from grading.history.compare import REGRESSIONS, compare, show
        from grading.history.runs import Run

        made = [each.as_dict(include_data=False) for each in self.config._benchmarksession.benchmarks]  # type: ignore[attr-defined]
        now = Run.of("this run", "", made)
        graded = {record.exercise for record in self.session.records}
        meant = {
            test: measured
            for test, measured in self.earlier.tests.items()
            if test.partition("::")[0] in graded and test not in self.session.deselected
        }
        before = replace(self.earlier, tests=meant)
        findings = compare(before, now)
        self.comparison = show(before, now, findings)
        return any(finding.change in REGRESSIONS for finding in findings)

    def show(self, terminal: pytest.TerminalReporter) -> None:
        """Print the failures by cause, the points, and the next step."""
        from grading.reports.terminal import next_step, points_table

        grade, write = grade_of(self.session), terminal.write_line
        if not grade.records:
            return
        terminal.ensure_newline()
        width = min(terminal._tw.fullwidth, WIDEST)
        if self.config.getoption("tbstyle") != "no":
            self._show_failures(terminal, grade, width)
        terminal.section("points")
        for line in points_table(grade, width):
            write(line)
        if self.comparison:
            terminal.section("speed compared with an earlier run")
            write(self.comparison)
        if step := next_step(grade):
            write("")
            for line in textwrap.wrap(step, width, break_long_words=False, break_on_hyphens=False):
                write(line)
        if self.session.options.impl is None and list(self.session.graded) == ["solutions"]:  # pytest tests/…
            only = [f"/{exercise}.py" for exercise in grade.by_exercise()]
            write(f"Your own work: pytest exercises{only[0] if len(only) == 1 else ''}")
        if self.config.getoption("reportchars") == "fE":
            terminal.reportchars = ""  # pytest's own short summary would repeat it all
        if self.problem:
            write(self.problem, red=True)
        elif (folder := self.session.options.report) is not None:
            write(f"Reports: {os.path.relpath(folder, self.session.options.start)}")

    def _show_failures(self, terminal: pytest.TerminalReporter, grade: Grade, width: int) -> None:
        from grading.reports.terminal import failures, tests_table

        for exercise, tally in grade.by_exercise().items():
            if not tally.count("failed"):
                continue
            terminal.section(exercise)
            if self.session.options.all_failures:  # above, pytest has shown what is told here otherwise
                for line in tests_table(tally, width):
                    terminal.write_line(line)
                continue
            for heading, lines in failures(tally, min(width, 80)):
                terminal.write_sep("_", heading, red=True, bold=True)
                for line in lines:
                    terminal.write_line(coloured(line, terminal))


def coloured(line: str, terminal: pytest.TerminalReporter) -> str:
    """A line of a failure with its label in colour, where the terminal has any."""
    from grading.reports.terminal import INDENT

    colour = COLOURS.get(line[:INDENT].strip())
    if colour is None:
        return line
    return terminal._tw.markup(line[:INDENT], bold=True, **{colour: True}) + line[INDENT:]


def _earlier_run(course: Course, name: str | None) -> Run | None:
    """The run of --against, looked up before this one is saved."""
    if name is None:
        return None
    from grading.history.runs import RunError, find_run, kept_runs, newest
    from grading.judge.hardware import machine_kind

    try:
        kept = [find_run(course, name)] if name else kept_runs(course)
    except RunError as error:
        raise pytest.UsageError(f"--against {error}") from None
    if not kept:
        raise pytest.UsageError(
            "--against: benchmarks/ has no saved runs; save one with --benchmark-autosave, or name a file"
        )
    return newest(kept, machine_kind())


def place_runs(config: pytest.Config, course: Course) -> None:
    """Have pytest-benchmark save runs in a folder for this kind of machine, unless it was given another."""
    option = config.option
    used = option.benchmark_autosave or option.benchmark_save or option.benchmark_compare
    if used and option.benchmark_storage == "file://./.benchmarks":
        from grading.judge.hardware import machine_kind

        option.benchmark_storage = f"file://{course.runs_of(machine_kind())}"

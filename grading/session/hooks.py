"""The pytest hooks of a session; each delegates its work."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from grading.ask import marks
from grading.course.trees import clear_scratch
from grading.data.record import Record
from grading.explain.outcome import NotGradableHere, NotReached, Unmet
from grading.history import recording
from grading.reports.text import one_line, plain
from grading.session.collect import NothingGraded, collect_module
from grading.session.finish import Finish
from grading.session.items import FIGURES, PARTS, graded_module, record_id
from grading.session.session import Session
from grading.session.verdict import failure_text, judge_test, observed_by, unreached


class Hooks:
    """The plugin of one session."""

    def __init__(self, session: Session, config: pytest.Config) -> None:
        self.session, self.config = session, config
        self.finish = Finish(session, config)

    @property
    def is_worker(self) -> bool:
        """Whether this is a worker of xdist; the controller writes the reports."""
        return hasattr(self.config, "workerinput")

    # --- collection ---

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        course = self.session.course
        exercise = course.exercise_at(module_path)
        if exercise is None and course.exercises_root not in module_path.parents:
            return None
        if exercise is None or exercise not in course.exercises:
            return NothingGraded.from_parent(parent, path=module_path)
        tree = self.session.tree_for(module_path.relative_to(course.root).parts[0], exercise)
        self.session.graded[tree.name] = self.session.tree or tree
        return collect_module(module_path, parent, exercise, course, tree, self.session.shrink)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if graded_module(item) is None or not isinstance(item, pytest.Function):
            return
        if marks.at_most_of(item) is not None and "benchmark" not in item.fixturenames:
            item.fixturenames.append("benchmark")
        if "benchmark" in item.fixturenames:
            recording.prepare(item)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Refuse to count a test's points twice: the file of an exercise and that of its tests hold the same tests."""
        seen: dict[str, pytest.Item] = {}
        for item in items:
            if graded_module(item) is not None and (other := seen.setdefault(record_id(item), item)) is not item:
                files = " and ".join(each.nodeid.partition("::")[0] for each in (other, item))
                raise pytest.UsageError(f"{files} hold the same tests, each worth its points once: give one of them")

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.session.deselected |= {record_id(item) for item in items}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if (module := graded_module(item)) is not None and isinstance(item, pytest.Function):
                record = unreached(item, module)
                self.session.planned[record.id] = record

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Of xdist: only its workers collect."""
        planned = getattr(node, "workeroutput", {}).get("whetstone", ())
        self.session.planned |= {data["id"]: Record.from_dict(data) for data in planned}

    # --- running ---

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        module = graded_module(item)
        if module is None:
            return
        if module.absent is not None:
            raise module.absent
        if self.session.late:
            raise NotReached(f"not reached within the {self.session.options.time_budget:g} s of --time-budget")
        if missing := marks.missing_of(item):
            raise NotGradableHere(missing)
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            import hypothesis

            hypothesis.seed(self.session.options.seed)(item.obj)  # type: ignore[attr-defined]

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        result = yield
        if graded_module(pyfuncitem) is not None:
            self._check_counted(pyfuncitem)
            if (parts := pyfuncitem.stash.get(PARTS, None)) is not None:
                parts.finish()
            if (allowed := marks.at_most_of(pyfuncitem)) is not None:
                self._judge_counts(pyfuncitem, allowed)
        return result

    def _check_counted(self, item: pytest.Function) -> None:
        """What a test counted must have computed its answer; if not, none of its parts is earned."""
        if not any(got.request.count for got in observed_by(item)):
            return
        from grading.judge.counts import check_counted

        try:
            check_counted(self.session.course, observed_by(item))
        except Unmet:
            if (parts := item.stash.get(PARTS, None)) is not None:
                parts.earned.clear()
            raise

    def _judge_counts(self, item: pytest.Function, allowed: marks.AtMost) -> None:
        """Judge what a test counted, and record it."""
        from grading.judge.counts import judge_counts

        observed, figures = observed_by(item), item.stash.setdefault(FIGURES, {})
        figures.update(judge_counts(allowed, self.session.course, observed, figures))
        seconds = [got.result.seconds for got in observed]
        recording.record_counts(item.funcargs["benchmark"], item, record_id(item), allowed, figures, seconds)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        module = graded_module(item)
        if module is None or (call.excinfo is None and call.when != "call") or call.when == "teardown":
            return report
        if call.excinfo is not None and isinstance(call.excinfo.value, (KeyboardInterrupt, pytest.exit.Exception)):
            return report
        assert isinstance(item, pytest.Function)
        record, explanation = judge_test(self.session, item, module, call)
        report.whetstone = record.to_dict()  # type: ignore[attr-defined]
        # For JUnit, which reads them from the teardown's report.
        item.user_properties += [("points", record.points), ("max_points", record.max_points)]
        item.user_properties += [("verdict", record.verdict), ("mistakes", ", ".join(record.mistakes))]
        if self.config.getoption("usepdb") and call.excinfo is not None and call.excinfo.value.__cause__ is not None:
            cause = call.excinfo.value.__cause__  # the debugger is to stop where the submission raised
            call.excinfo = pytest.ExceptionInfo.from_exception(cause)
        if record.verdict == "failed":
            report.longrepr = plain(failure_text(self.session, record, explanation))
            report.sections.clear()
        elif report.skipped:
            report.longrepr = (str(module.path), record.line or 0, record.reason)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = getattr(report, "whetstone", None)
        if data is not None:
            self.session.records.append(Record.from_dict(data))
            if data["verdict"] == "failed" and not self.session.options.all_failures:
                report._pdbshown = True  # type: ignore[attr-defined]  # not in FAILURES: the end of the run tells it

    # --- the end, and the terminal ---

    @pytest.hookimpl(trylast=True)  # syrupy adds pytest's own status to it
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.session.close()
        if self.is_worker:
            planned = [record.to_dict() for record in self.session.planned.values()]
            self.config.workeroutput["whetstone"] = planned  # type: ignore[attr-defined]
        else:
            self.finish.end(session)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        if self.is_worker:  # xdist ends its workers without running atexit
            clear_scratch()
        else:
            self.finish.leave()

    def pytest_report_header(self) -> str:
        options = self.session.options
        process = f"in a sandbox ({options.isolate})" if options.isolate else "in this process"
        tree = one_line(options.impl or "exercises (solutions under tests/)")
        known = self.session.identity
        tree += f" at {known['commit'][:7]}" if "commit" in known else ""
        course = " ".join(["whetstone", known.get("course version", ""), known.get("course commit", "")[:7]])
        return (
            f"{' '.join(course.split())}: grading {tree} {process}, seed {'secret' if options.secret else options.seed}"
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        data = getattr(report, "whetstone", None)
        if data is None or data["verdict"] in ("passed", "error"):
            return None
        if data["verdict"] == "failed":
            return "failed", "F", "FAILED"  # for pytest it is an error if a file does not load
        letter = {"not started": "-", "inconclusive": "?"}.get(data["verdict"], "s")
        return data["verdict"], letter, data["verdict"].upper()

    @pytest.hookimpl(trylast=True)  # below pytest-benchmark's table
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        self.finish.show(terminalreporter)

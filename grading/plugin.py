"""The pytest plugin: options, collection of exercises, fixtures, verdicts, and what stands at the end of a run."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from grading import marks, recording
from grading.course import Course
from grading.explanation import Explanation, Inconclusive, NotGradableHere, NotOffered, NotStarted, Unmet, show_value
from grading.interface import SourceError, unstarted
from grading.records import Grade, Part, Record, Verdict, show_points
from grading.skeleton import skeleton, test_sources
from grading.trees import Tree, TreeError, clear_scratch, find_tree

if TYPE_CHECKING:
    from grading.benchmarks import Run
    from grading.draw import Draw
    from grading.llm import ScriptedModel
    from grading.submission import Submission

HISTORY = 60  # answers of earlier tests that help to tell known mistakes apart
PATIENCE = 90.0  # seconds in a run for looking known mistakes up: whoever fails nearly everything learns it sooner
POINTS_MISSING = pytest.ExitCode.TESTS_FAILED
GRADER_BROKEN = pytest.ExitCode.INTERNAL_ERROR


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("whetstone", "Whetstone: graded exercises")
    group.addoption(
        "--impl",
        metavar="TREE",
        help="what to grade: exercises (default for pytest exercises/…), solutions (default for pytest tests/…), "
        "the name of a library under tests/libraries, or the path of a hand-in that holds weekN/NAME.py",
    )
    group.addoption(
        "--prerequisites",
        metavar="TREE",
        help="take the exercises that an exercise builds on from this tree, solutions say, instead of its own",
    )
    group.addoption(
        "--isolate",
        action="store_true",
        help="run the submission in a child process that can be limited and killed, and that may not read the answers",
    )
    group.addoption(
        "--memory-limit",
        type=int,
        default=8192,
        metavar="MB",
        help="with --isolate: memory that the submission may ask for (default: 8192; 0 for no limit)",
    )
    group.addoption(
        "--grading-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the graded inputs (default: 0); another one changes every number that a submission is given",
    )
    group.addoption("--device", default="cpu", help="where graded inputs are made: cpu (default) or cuda")
    group.addoption(
        "--llm-url", metavar="URL", help="ask this model, http://…/v1 of Ollama, vLLM, OpenAI, not a script"
    )
    group.addoption("--llm-model", metavar="NAME", help="its name; the key is read from OPENAI_API_KEY")
    group.addoption(
        "--against",
        nargs="?",
        const="",
        metavar="RUN",
        help="judge the performance tests by a kept run, and fail where one got worse (default: the newest of this "
        "kind of machine, or else of any)",
    )
    group.addoption("--report", metavar="DIR", help="write grade.json and the reports drawn from it to this directory")


def pytest_configure(config: pytest.Config) -> None:
    for description in marks.DESCRIPTIONS:
        config.addinivalue_line("markers", description)
    config.addinivalue_line("python_files", "exercises/week*/*.py")
    course = Course(config.rootpath)
    config.pluginmanager.register(Grading(config, course), "whetstone")


class Grading:
    """One run of the grader."""

    def __init__(self, config: pytest.Config, course: Course) -> None:
        self.config, self.course = config, course
        self.records: list[Record] = []
        self.problem = ""
        self.graded_files = 0
        self._explained: dict[tuple[str, str], str] = {}  # where in the terminal something was explained first
        self._history: dict[str, list[Any]] = {}
        self._executor: Any = None
        self.patience = PATIENCE
        self.deselected: set[str] = set()
        self._place_runs()
        self.earlier = self._earlier_run()
        self.comparison = ""  # with it
        self.shrink = True  # what Hypothesis finds, before it is shown
        report = config.getoption("--report")
        self.report = (config.invocation_params.dir / report).resolve() if report else None
        if self.report is not None and self.report.is_file():
            raise pytest.UsageError(f"--report {report}: this is a file; give a directory")
        if config.getoption("--memory-limit") < 0:
            raise pytest.UsageError(f"--memory-limit {config.getoption('--memory-limit')}: give a number of MB, or 0")
        if bool(config.getoption("--llm-url")) != bool(config.getoption("--llm-model")):
            raise pytest.UsageError("--llm-url and --llm-model: give both, or neither")
        if not (config.getoption("--llm-url") or "http://").startswith(("http://", "https://")):
            raise pytest.UsageError(f"--llm-url {config.getoption('--llm-url')}: give http://… or https://…, up to /v1")
        try:
            self.impl = self._tree("--impl")
            self.lender = self._tree("--prerequisites")
        except TreeError as error:
            self.problem = str(error)
            self.write_reports()
            raise pytest.UsageError(str(error)) from None

    def _place_runs(self) -> None:
        """Keep the runs that pytest-benchmark is asked to keep by kind of machine, unless it is told where."""
        option = self.config.option
        used = option.benchmark_autosave or option.benchmark_save or option.benchmark_compare
        if used and option.benchmark_storage == "file://./.benchmarks":
            from grading.hardware import machine_kind

            option.benchmark_storage = f"file://{self.course.root / 'benchmarks' / machine_kind()}"

    def _earlier_run(self) -> Run | None:
        """The run of --against; found now, before this one is kept."""
        name = self.config.getoption("--against")
        if name is None:
            return None
        from grading.benchmarks import RunError, find_run, kept_runs, newest
        from grading.hardware import machine_kind

        try:
            kept = [find_run(self.course, name)] if name else kept_runs(self.course)
        except RunError as error:
            raise pytest.UsageError(f"--against {error}") from None
        if not kept:
            raise pytest.UsageError(
                "--against: no run is kept below benchmarks/; name one, or keep one with --benchmark-autosave"
            )
        return newest(kept, machine_kind())

    def _tree(self, option: str) -> Tree | None:
        name = self.config.getoption(option)
        return find_tree(self.course, name, self.config.invocation_params.dir, option) if name else None

    def tree_for(self, top: str, exercise: str) -> Tree:
        """The tree to grade where pytest was pointed at `top`, with its prerequisites."""
        tree = self.impl or find_tree(self.course, "exercises" if top == "exercises" else "solutions", self.course.root)
        return tree.lent(exercise, self.lender) if self.lender is not None else tree

    @property
    def executor(self) -> Any:
        if self._executor is None:
            from grading.execution import InProcess, Isolated

            option = self.config.getoption
            if option("--isolate"):
                self._executor = Isolated(self.course.private_roots, option("--memory-limit"))
            else:
                self._executor = InProcess(live=option("capture") == "no" or option("usepdb"))
        return self._executor

    def submission(self, item: pytest.Item) -> Submission:
        from grading.draw import Draw
        from grading.submission import Submission

        module = graded_module(item)
        assert module is not None
        return Submission(
            module.tree,
            module.exercise,
            self.executor,
            seed=Draw(self.seed, record_id(item)).seed,
            seconds=marks.seconds_of(item),
            process=marks.process_of(item),
        )

    @property
    def seed(self) -> int:
        return self.config.getoption("--grading-seed")

    # --- collection ---

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        exercise = self.course.exercise_at(module_path)
        beside = self.course.exercises_root in module_path.parents  # what lies beside an exercise is never imported
        if exercise is None and not beside:
            return None
        if exercise not in self.course.exercises:
            return NothingGraded.from_parent(parent, path=module_path)
        module = GradedModule.from_parent(parent, path=module_path)
        module.grading, module.exercise = self, exercise
        module.tree = self.tree_for(module_path.relative_to(self.course.root).parts[0], exercise)
        self.graded_files += 1
        return module

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if graded_module(item) is None or not isinstance(item, pytest.Function):
            return
        if marks.at_most_of(item) is not None and "benchmark" not in item.fixturenames:
            item.fixturenames.append("benchmark")
        if "benchmark" in item.fixturenames:
            recording.prepare(item)

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.deselected |= {record_id(item) for item in items}

    # --- running ---

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        module = graded_module(item)
        if module is None:
            return
        if module.absent is not None:
            raise module.absent
        if missing := marks.missing_of(item):
            raise NotGradableHere(missing)
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            import hypothesis

            hypothesis.seed(self.seed)(item.obj)  # type: ignore[attr-defined]

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        result = yield
        if graded_module(pyfuncitem) is not None:
            parts = pyfuncitem.stash.get(PARTS, None)
            if parts is not None:
                parts.settle()
            if (allowed := marks.at_most_of(pyfuncitem)) is not None:
                self.count(pyfuncitem, allowed)
        return result

    def count(self, item: pytest.Function, allowed: marks.AtMost) -> None:
        """Judge what a test counted, and record it."""
        from grading.allowance import settle

        observed, figures = item.stash[SUBMISSION].observed, item.stash.setdefault(FIGURES, {})
        figures.update(settle(allowed, self.course, observed, figures))
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
        record, explanation = self.judge(item, module, call)
        report.whetstone = record.to_dict()  # type: ignore[attr-defined]
        # For JUnit, which takes them from the report of the teardown.
        item.user_properties += [("points", record.points), ("max_points", record.max_points)]
        item.user_properties += [("verdict", record.verdict), ("mistake", record.mistake or "")]
        if record.verdict == "failed":
            report.longrepr = self.long_text(record, explanation)
            report.sections.clear()
        elif report.skipped:
            report.longrepr = (str(module.path), record.line or 0, record.reason)
        return report

    def judge(self, item: pytest.Item, module: GradedModule, call: pytest.CallInfo[None]) -> tuple[Record, Explanation]:
        error = call.excinfo.value if call.excinfo is not None else None
        verdict, explanation = self.verdict(item, error)
        max_points, shares = marks.points_of(item)
        parts: dict[str, Part] = {}
        if shares:
            earned = item.stash[PARTS].earned if PARTS in item.stash else set()
            parts = {name: Part(share if name in earned else 0.0, share) for name, share in shares.items()}
        points = max_points if verdict == "passed" else sum(part.points for part in parts.values())
        mistake = self.mistake(item, module) if verdict == "failed" else None
        section = (mistake and mistake.handout) or marks.section_of(item)
        handout = module.handout + (f"#{section}" if section else "")
        explanation = explanation.with_(likely=mistake.explanation if mistake else "", handout=handout)
        line, source = test_sources(self.course.tests(module.exercise))[item.originalname]  # type: ignore[attr-defined]
        observed = item.stash[SUBMISSION].observed if SUBMISSION in item.stash else []
        record = Record(
            id=record_id(item),
            title=title(item),
            verdict=verdict,
            points=points,
            max_points=max_points,
            seconds=round(call.duration, 6),
            message=explanation.text() if explanation.reason else "",
            reason=explanation.reason,
            mistake=mistake.name if mistake else None,
            handout=handout,
            parts=parts,
            figures=item.stash.get(FIGURES, {}),
            output="".join(got.printed for got in observed)[:20_000],
            test_code=source,
            line=line,
        )
        return record, explanation

    def verdict(self, item: pytest.Item, error: BaseException | None) -> tuple[Verdict, Explanation]:
        """What an exception says about the submission, or about us."""
        match error:
            case None:
                return "passed", Explanation("")
            case Unmet():
                observed = item.stash[SUBMISSION].observed if SUBMISSION in item.stash else []
                last = observed[-1].explain("") if observed else Explanation("")
                return "failed", error.explanation.with_(called=last.called, printed=last.printed)
            case NotStarted():
                return "not started", Explanation(str(error))
            case NotOffered():
                return "not offered", Explanation(str(error))
            case Inconclusive():
                return "inconclusive", Explanation(str(error))
            case NotGradableHere() | pytest.skip.Exception():
                return "not gradable here", Explanation(str(error))
        observed = item.stash[SUBMISSION].observed if SUBMISSION in item.stash else []
        line = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if not observed or _broke_in_grader(error):
            return "error", Explanation(f"the grader broke: {line}")
        # Something came back that the test did not foresee: a list without .shape, say.
        last = observed[-1]
        came = f"{show_value(last.result.output)}\nwhich could not be judged ({line})"
        if isinstance(error, AssertionError):
            came = str(error)
        return "failed", last.explain(came.splitlines()[0] if came else line, came=came)

    def mistake(self, item: pytest.Item, module: GradedModule) -> Any:
        """The known mistake that explains what the test saw, if exactly one does."""
        if SUBMISSION not in item.stash:
            return None
        observed = item.stash[SUBMISSION].observed
        if not observed or self.patience <= 0:
            return None
        from grading.mistakes import recogniser

        started = time.monotonic()
        try:
            return recogniser(self.course, module.exercise).recognise(observed, self._history.get(module.exercise, []))
        except Exception as error:  # a guess that fails must not cost the run
            warnings.warn(f"looking for a known mistake failed: {type(error).__name__}: {error}", stacklevel=2)
            return None
        finally:
            self.patience -= time.monotonic() - started

    def remember(self, submission: Submission) -> None:
        """Keep what a test saw, for telling mistakes apart later."""
        history = self._history.setdefault(submission.exercise, [])
        history += [got for got in submission.observed[-2:] if not got.request.count]
        del history[:-HISTORY]

    def long_text(self, record: Record, explanation: Explanation) -> str:
        """The failure as the terminal shows it; what was explained before is not explained again."""
        head = f"{record.title}   {show_points(record.points)} of {show_points(record.max_points)} points"
        lines = textwrap.wrap(head, 80)
        if not explanation.called:  # a problem of the whole file
            before = self._explained.setdefault((record.exercise, record.reason), record.test)
            if before != record.test:
                return "\n".join([*lines, *textwrap.wrap(f"{record.reason} (see {before})", 80)])
        if record.mistake:
            before = self._explained.setdefault((record.exercise, record.mistake), record.test)
            if before != record.test:
                explanation = replace(explanation, likely=f"the same mistake as in {before}")
        return "\n".join([*lines, "", explanation.text()])

    # --- the end ---

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = getattr(report, "whetstone", None)
        if data is not None:
            self.records.append(Record.from_dict(data))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._executor is not None:
            self._executor.close()
        if hasattr(self.config, "workerinput"):  # an xdist worker: its controller reports
            return
        if self.records and session.exitstatus in (pytest.ExitCode.OK, POINTS_MISSING):
            grade = self.grade()
            if grade.count("error"):
                session.exitstatus = GRADER_BROKEN
            elif not grade.complete or self.regressed():
                session.exitstatus = POINTS_MISSING
        self.write_reports()

    def regressed(self) -> bool:
        """Whether a performance test did worse than in the run of --against."""
        if self.earlier is None:
            return False
        from grading.benchmarks import Run
        from grading.benchmarks.compare import REGRESSIONS, compare, show

        made = [each.as_dict(include_data=False) for each in self.config._benchmarksession.benchmarks]  # type: ignore[attr-defined]
        now = Run.of("this run", "", made)
        graded = {record.exercise for record in self.records}
        meant = {
            test: measured
            for test, measured in self.earlier.tests.items()
            if test.partition("::")[0] in graded and test not in self.deselected
        }
        before = replace(self.earlier, tests=meant)
        findings = compare(before, now)
        self.comparison = show(before, now, findings)
        return any(finding.change in REGRESSIONS for finding in findings)

    def pytest_unconfigure(self) -> None:
        if hasattr(self.config, "workerinput"):  # xdist ends its workers without a word, so atexit is not heard
            clear_scratch()

    def write_reports(self) -> None:
        if self.report is None or hasattr(self.config, "workerinput"):
            return
        from grading.reports import write_reports

        write_reports(self.grade(), self.report)

    def grade(self) -> Grade:
        position = {name: number for number, name in enumerate(self.course.exercises)}
        ordered = sorted(self.records, key=lambda record: (position.get(record.exercise, 0), record.line or 0))
        return Grade(
            tuple(ordered),
            implementation=self.config.getoption("--impl") or "exercises",
            seed=self.seed,
            environment=environment(),
            problem=self.problem,
        )

    def pytest_report_header(self) -> str | None:
        where = "in a child process" if self.config.getoption("--isolate") else "in this process"
        impl = self.config.getoption("--impl") or "exercises (solutions below tests/)"
        return f"whetstone: grading {impl} {where}, seed {self.seed}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        data = getattr(report, "whetstone", None)
        if data is None or data["verdict"] in ("passed", "failed", "error"):
            return None
        letter = {"not started": "-", "inconclusive": "?"}.get(data["verdict"], "s")
        return data["verdict"], letter, data["verdict"].upper()

    @pytest.hookimpl(trylast=True)  # below pytest-benchmark's table
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.records:
            return
        from grading.reports.terminal import next_step, points_table, tests_table

        grade, write = self.grade(), terminalreporter.write_line
        width = min(terminalreporter._tw.fullwidth, 100)
        for exercise, tally in grade.by_exercise().items():
            if tally.count("failed"):
                terminalreporter.section(exercise)
                for line in tests_table(tally, width):
                    write(line)
        terminalreporter.section("points")
        for line in points_table(grade, width):
            write(line)
        if self.comparison:
            terminalreporter.section("speed, against an earlier run")
            write(self.comparison)
        if step := next_step(grade):
            write("")
            for line in textwrap.wrap(step, width, break_long_words=False, break_on_hyphens=False):
                write(line)
        if self.config.getoption("reportchars") == "fE":
            terminalreporter.reportchars = ""  # pytest's own short summary would say it all once more
        if self.report is not None:
            write(f"Reports: {os.path.relpath(self.report, self.config.invocation_params.dir)}")


class GradedModule(pytest.Module):
    """The graded tests of one exercise, collected at the path of the exercise or of the tests."""

    grading: Grading
    exercise: str
    tree: Tree
    absent: NotStarted | NotOffered | None = None  # why none of the tests needs to run

    @property
    def handout(self) -> str:
        course = self.grading.course
        path = course.handout(self.exercise)
        return path.relative_to(course.root).as_posix()

    def _getobj(self) -> Any:
        tests = self.grading.course.tests(self.exercise)
        self.absent = self._absent()
        if self.absent is not None and (module := skeleton(tests)) is not None:
            return module
        load_hypothesis_profile(self.grading.shrink)
        return importlib.import_module(f"tests.{self.exercise.replace('/', '.test_')}")

    def _absent(self) -> NotStarted | NotOffered | None:
        path = self.tree.file(self.exercise)
        if path is None and self.tree.library:
            return NotOffered(f"{self.tree.name} does not offer {self.exercise}")
        if path is None:
            return NotStarted(f"there is no {self.exercise}.py in {self.tree.name}")
        try:
            return NotStarted("not started") if unstarted(path.read_text("utf-8", "replace")) else None
        except SourceError:
            return None  # each test will say it


class NothingGraded(pytest.File):
    """A Python file beside the exercises that has no graded tests."""

    def collect(self) -> list[pytest.Item]:
        return []


class Parts:
    """Partial credit: the named parts of a test, each earned on its own."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.earned: set[str] = set()
        self.entered: set[str] = set()
        self.failures: list[Unmet] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if name not in self.names:
            raise ValueError(f"part({name!r}): the points mark names {', '.join(sorted(self.names)) or 'no parts'}")
        first = name not in self.entered
        self.entered.add(name)
        try:
            yield
        except Unmet as failure:
            self.earned.discard(name)
            self.failures.append(failure)
        else:
            if first:
                self.earned.add(name)

    def settle(self) -> None:
        """Fail the test if a part failed, or was never tried."""
        if self.failures:
            raise self.failures[0]
        if missing := self.names - self.entered:
            raise RuntimeError(f"parts that the test never tried: {', '.join(sorted(missing))}")


PARTS = pytest.StashKey[Parts]()
SUBMISSION = pytest.StashKey[Any]()
FIGURES = pytest.StashKey[dict[str, Any]]()


@pytest.fixture
def submission(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[Submission]:
    """The exercise under test: `call`, `make` and `run` ask it for something and give plain data back."""
    grading = _grading(pytestconfig)
    made = request.node.stash[SUBMISSION] = grading.submission(request.node)
    yield made
    grading.remember(made)


@pytest.fixture
def llm(submission: Submission, pytestconfig: pytest.Config) -> ScriptedModel:
    """A language model that answers by a script and hears what the submission asks: see `grading.llm`."""
    from grading.llm import RealModel, ScriptedModel

    url, name = pytestconfig.getoption("--llm-url"), pytestconfig.getoption("--llm-model")
    key = os.environ.get("OPENAI_API_KEY", "none")
    submission.model = RealModel(url, name, key) if url else ScriptedModel()
    return submission.model


@pytest.fixture
def gpu(pytestconfig: pytest.Config) -> None:
    """For a test that needs a GPU: without one its points are not in the total."""
    if pytestconfig.getoption("--device") == "cpu":
        pytest.skip("needs a GPU: --device cuda")


@pytest.fixture
def draw(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Draw:
    """Inputs from the grading seed: `draw.normal(2, 3, dtype="float16")` and the like."""
    from grading.draw import Draw

    grading = _grading(pytestconfig)
    return Draw(grading.seed, record_id(request.node), pytestconfig.getoption("--device"))


@pytest.fixture
def part(request: pytest.FixtureRequest) -> Callable[[str], contextlib.AbstractContextManager[None]]:
    """Partial credit: `with part("gradients"): …` earns the points that the mark gives that name."""
    parts = request.node.stash[PARTS] = Parts(set(marks.points_of(request.node)[1]))
    return parts


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a test measured, for the records: `figures["flops"] = got.counts["flops"]`."""
    return request.node.stash.setdefault(FIGURES, {})


@pytest.fixture
def speed(
    request: pytest.FixtureRequest, submission: Submission, benchmark: Any, figures: dict[str, Any]
) -> Callable[[Callable[..., Any]], None]:
    """Judges what `at_least` asks for: `speed(lambda submission, draw: submission.call("f", draw.normal(64, 64)))`.

    The function asks a submission for one call, with inputs from `draw`; it is asked once for each call that is timed,
    for the submission and for the reference. A call should take a few milliseconds at least.
    """
    from grading.speed import Contest, settle

    item, grading = request.node, _grading(request.config)
    limit = marks.at_least_of(item)
    if limit is None:
        raise pytest.UsageError(f"{item.nodeid}: the fixture speed needs the mark at_least")
    parts = Parts(set(marks.points_of(item)[1]) or set(limit.texts))
    if len(limit.texts) > 1:
        item.stash[PARTS] = parts

    def judge(ask: Callable[..., Any]) -> None:
        parts.entered |= parts.names
        contest = Contest.arrange(submission, grading.course, limit, request.config.getoption("--device"), ask)
        comparison = contest.run(ask)
        figures.update(contest.figures(comparison, ask))
        recording.record_speed(benchmark, item, record_id(item), comparison, limit, figures)
        settle(contest, ask, comparison, parts.earned.add)

    return judge


def _grading(config: pytest.Config) -> Grading:
    grading = config.pluginmanager.get_plugin("whetstone")
    assert isinstance(grading, Grading)
    return grading


def graded_module(item: pytest.Item) -> GradedModule | None:
    return item.getparent(GradedModule)


def _broke_in_grader(error: BaseException) -> bool:
    """Whether an exception came from the grader or an oracle, not from a graded test that met an odd answer."""
    if isinstance(error, (AssertionError, pytest.fail.Exception)):
        return False
    here = Path(__file__).parent
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    return any(file.is_relative_to(here) or file.parent.name == "oracles" for file in files if file != Path(__file__))


def record_id(item: pytest.Item) -> str:
    module = graded_module(item)
    return f"{module.exercise if module else item.nodeid.partition('::')[0]}::{item.name}"


def title(item: pytest.Item) -> str:
    """The first line of the test's docstring, or its name in words, with its parameters."""
    name, bracket, parameters = item.name.partition("[")
    docstring = (getattr(item, "obj", None).__doc__ or "").strip()
    words = docstring.splitlines()[0].rstrip(".") if docstring else name.removeprefix("test_").replace("_", " ")
    return f"{words} {bracket}{parameters}".strip()


def load_hypothesis_profile(shrink: bool) -> None:
    """Property tests without a clock and without a memory: the same examples for the same seed."""
    import hypothesis

    hypothesis.settings.register_profile(
        "whetstone",
        deadline=None,
        database=None,
        print_blob=False,
        phases=[phase for phase in hypothesis.Phase if shrink or phase is not hypothesis.Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=[
            hypothesis.HealthCheck.function_scoped_fixture,
            hypothesis.HealthCheck.too_slow,
            hypothesis.HealthCheck.differing_executors,
        ],
    )
    hypothesis.settings.load_profile("whetstone")


def environment() -> dict[str, str]:
    """What a grade was made with. Versions are read from metadata, so that nothing is imported for it."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in ("torch", "transformers", "pytest"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        found["gpu"] = sys.modules["torch"].cuda.get_device_name()
    return found

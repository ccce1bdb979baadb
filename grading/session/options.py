"""The grader's command-line options, read and checked once."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from grading.course.layout import Course
from grading.course.trees import is_own

STRONGEST = "strongest"
SEED = "WHETSTONE_SEED"  # for a cohort's secret seed


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("whetstone", "Whetstone: graded exercises")
    group.addoption(
        "--impl",
        metavar="TREE",
        action="append",
        help="what to grade: exercises (default for pytest exercises/…), solutions (default for pytest tests/…), "
        "the name of a library under tests/libraries, or the path of a hand-in that holds weekN/NAME.py",
    )
    group.addoption(
        "--prerequisites",
        metavar="TREE",
        help="take the exercises that an exercise builds on from this tree, such as solutions, instead of its own",
    )
    group.addoption(
        "--isolate",
        nargs="?",
        const=STRONGEST,
        metavar="KIND",
        help="run the submission in a sandbox: --isolate=bwrap, --isolate=landlock, --isolate=child, or the strongest "
        "of them that works here (the default for a hand-in that --impl gives as a path)",
    )
    group.addoption(
        "--no-isolate", action="store_true", help="run a hand-in in the grader's own process: one that you have read"
    )
    group.addoption(
        "--memory-limit",
        type=int,
        default=8192,
        metavar="MB",
        help="in a sandbox: the memory that the submission may use (default: 8192; 0 for no limit)",
    )
    group.addoption("--student", metavar="NAME", help="whose work this is (default: the name of the hand-in's folder)")
    group.addoption(
        "--time-budget",
        type=_duration,
        default=math.inf,
        metavar="SECONDS",
        help="seconds for the whole run, or 30m; what is not reached within it counts 0, in the order of the course",
    )
    group.addoption(
        "--grading-seed",
        type=int,
        metavar="N",
        help="seed of the graded inputs (default: 0, for practice); another changes every number that a submission is "
        f"given. A seed in the environment variable {SEED} stays out of the reports",
    )
    group.addoption("--device", default="cpu", help="the device of graded inputs: cpu (default) or cuda")
    group.addoption(
        "--llm-url", metavar="URL", help="use this model, http://…/v1 of Ollama, vLLM or OpenAI, instead of a script"
    )
    group.addoption("--llm-model", metavar="NAME", help="the model's name; the key is read from OPENAI_API_KEY")
    group.addoption(
        "--against",
        nargs="?",
        const="",
        metavar="RUN",
        help="compare the performance tests with a saved run, and fail if one got worse (default: the newest on this "
        "kind of machine, or else on any)",
    )
    group.addoption(
        "--all-failures",
        action="store_true",
        help="tell every failure in full, and list all tests with their points (default: each cause once)",
    )
    group.addoption("--report", metavar="DIR", help="write grade.json and all other reports to this directory")


def _duration(text: str) -> float:
    """Seconds, from `600` or `10m`. ValueError, of which pytest makes a usage error."""
    seconds = 60 * float(text[:-1]) if text.endswith("m") else float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text}: give seconds, such as 600, or minutes, such as 10m")
    return seconds


def keep_paths(arguments: list[str]) -> None:
    """`--isolate exercises/week1` is the option without a kind, and a path."""
    for number, word in enumerate(arguments):
        if word == "--isolate":
            arguments[number] = f"--isolate={STRONGEST}"


def refuse_other_roots(config: pytest.Config) -> None:
    """UsageError where pytest took its configuration from a folder that only an option names.

    pytest looks for its configuration before it knows any option of a plugin: the DIR of `--impl DIR` is just another
    path to it, and what lies in it could configure pytest.
    """
    course = Course.around(config.invocation_params.dir)
    if course is None or config.rootpath == course.root:
        return
    for option in ("impl", "prerequisites", "report"):
        given = getattr(config.known_args_namespace, option, None) or []
        for word in [given] if isinstance(given, str) else given:
            named = (config.invocation_params.dir / word).resolve()
            if config.rootpath.is_relative_to(named) or not Course(config.rootpath).exists:
                raise pytest.UsageError(
                    f"pytest took {config.inipath or config.rootpath} for its configuration instead of the course's: "
                    f"write --{option}={word}, in one word"
                )


@dataclass(frozen=True)
class Options:
    """The options of one run."""

    start: Path  # relative paths are relative to this
    impl: str | None = None
    prerequisites: str | None = None
    isolate: str = ""  # the kind of sandbox, see `grading.run.sandbox`; empty for the grader's own process
    review: bool = False  # mark the tests of a submission that does what honest work has no use for
    strict: bool = False  # withhold the points of such tests until a person has accepted them
    live: bool = False  # a person watches or debugs: leave the terminal to the submission
    memory_mb: int = 8192
    seed: int = 0
    secret: bool = False  # whether the seed stays out of the reports
    student: str | None = None
    time_budget: float = math.inf  # seconds
    device: str = "cpu"
    llm_url: str | None = None
    llm_model: str | None = None
    against: str | None = None  # "" for the newest run
    all_failures: bool = False  # tell every failure, not every cause once
    report: Path | None = None

    @classmethod
    def read(cls, config: pytest.Config) -> Options:
        """Raises UsageError for an invalid option."""
        option, start = config.getoption, config.invocation_params.dir
        trees = option("--impl") or [None]
        if len(trees) > 1:
            raise pytest.UsageError(f"--impl {' --impl '.join(trees)}: give one tree; a run grades one")
        if config.getoption("reruns", None):
            raise pytest.UsageError("--reruns: a graded test runs once, so that its points are clear")
        report = option("--report")
        live = option("capture") == "no" or option("usepdb")
        options = cls(
            start=start,
            impl=trees[0],
            prerequisites=option("--prerequisites"),
            isolate=_sandbox(Course(config.rootpath), trees[0], option("--isolate"), option("--no-isolate"), live),
            review=True,
            strict=bool(config.getini("strict")),  # pytest's own option, which also makes it strict about marks
            live=live,
            memory_mb=option("--memory-limit"),
            seed=_seed(option("--grading-seed")),
            secret=option("--grading-seed") is None and bool(os.environ.get(SEED)),
            student=option("--student"),
            time_budget=option("--time-budget"),
            device=option("--device"),
            llm_url=option("--llm-url"),
            llm_model=option("--llm-model"),
            against=option("--against"),
            all_failures=option("--all-failures"),
            report=(start / report).resolve() if report else None,
        )
        if options.report is not None and options.report.is_file():
            raise pytest.UsageError(f"--report {report}: this is a file; give a directory")
        if options.memory_mb < 0:
            raise pytest.UsageError(f"--memory-limit {options.memory_mb}: give a number of MB, or 0")
        if bool(options.llm_url) != bool(options.llm_model):
            raise pytest.UsageError("--llm-url and --llm-model: give both, or neither")
        if not (options.llm_url or "http://").startswith(("http://", "https://")):
            raise pytest.UsageError(f"--llm-url {options.llm_url}: give http://… or https://…, up to /v1")
        return options

    @property
    def flags(self) -> str:
        """The options that can change a grade, as they were given; where they have not their usual values."""
        given = {
            "--prerequisites": self.prerequisites,
            "--device": self.device if self.device != "cpu" else None,
            "--memory-limit": str(self.memory_mb) if self.memory_mb != 8192 else None,
            "--time-budget": f"{self.time_budget:g}" if self.time_budget < math.inf else None,
            "--llm-model": self.llm_model,
        }
        words = [f"{name}={value}" for name, value in given.items() if value is not None]
        return " ".join(words + ["--strict"] * self.strict)

    @property
    def llm_key(self) -> str:
        return os.environ.get("OPENAI_API_KEY", "none")


def _seed(given: int | None) -> int:
    if given is not None:
        return given
    text = os.environ.get(SEED) or "0"
    if not text.isdecimal():
        raise pytest.UsageError(f"{SEED}: give a natural number (what it is now stays secret)")
    return int(text)


def _sandbox(course: Course, impl: str | None, asked: str | None, refused: bool, live: bool) -> str:
    """The kind of sandbox around the submission. UsageError for a kind that does not work here."""
    from grading.run.sandbox import KINDS, missing, strongest

    if asked and refused:
        raise pytest.UsageError("--isolate and --no-isolate: give one of them")
    if asked is None and (refused or impl is None or is_own(course, impl)):
        return ""
    if live:
        what = f"--impl {impl}: a hand-in runs in a sandbox" if asked is None else "--isolate"
        raise pytest.UsageError(
            f"{what}, where no debugger and no terminal reach it: leave out -s and --pdb, or add --no-isolate for work "
            "that you have read"
        )
    if asked in (None, STRONGEST):
        return strongest()
    if asked not in KINDS:
        raise pytest.UsageError(f"--isolate={asked}: give one of {', '.join(KINDS)}, or no kind for the strongest")
    if why := missing(asked):
        raise pytest.UsageError(f"--isolate={asked}: {why}; --isolate without a kind takes the strongest that works")
    return asked

"""Shared by the grader's own tests: a toy course with one small exercise, and ways to grade it as users do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

collect_ignore = ["course", "styles"]  # data for the tests, not tests

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).parent / "course"


@dataclass(frozen=True)
class Run:
    """A finished pytest process."""

    status: int
    text: str
    folder: Path  # of its reports

    @property
    def grade(self) -> dict[str, Any]:
        return json.loads((self.folder / "grade.json").read_text("utf-8"))

    def count(self, verdict: str) -> int:
        return sum(record["verdict"] == verdict for record in self.grade["records"])

    def record(self, test: str) -> dict[str, Any]:
        (found,) = [each for each in self.grade["records"] if each["id"].endswith(f"::{test}")]
        return found


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A copy of the toy course that a test may change."""
    return shutil.copytree(TOY, tmp_path / "toy", ignore=shutil.ignore_patterns("__pycache__", ".*"))


@pytest.fixture
def run_pytest(tmp_path: Path) -> Callable[..., Run]:
    """`run_pytest(course, "exercises", "--impl", "solutions")`: pytest in its own process, 80 columns wide."""

    def run(course: Path, *arguments: str) -> Run:
        folder = tmp_path / f"report-{len(list(tmp_path.glob('report-*')))}"
        asked = any(word.startswith(("--isolate", "--no-isolate")) for word in arguments)
        own = [] if asked else ["--no-isolate"]  # quicker; what a sandbox changes has tests of its own
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *own, *arguments, "--report", str(folder)]
        done = subprocess.run(command, cwd=course, env=environment(), capture_output=True, text=True, timeout=300)
        return Run(done.returncode, done.stdout + done.stderr, folder)

    return run


def environment() -> dict[str, str]:
    """This process's environment, with the grader on the path and a terminal that is the same everywhere."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "80",
        "NO_COLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def write_hand_in(folder: Path, **files: str) -> Path:
    """A tree with these exercises: `write_hand_in(path, mean=source)` writes week1/mean.py."""
    for name, source in files.items():
        path = folder / "week1" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, "utf-8")
    return folder


GRADE_TREES = """
import json, sys
from pathlib import Path
from grading.author.inner_run import grade_tree
from grading.course.layout import Course
from grading.course.trees import find_tree
course, (exercise, *names) = Course(Path.cwd()), sys.argv[1:]
grades = [grade_tree(course, exercise, find_tree(course, name, course.root)) for name in names]
print(json.dumps([[record.to_dict() for record in grade.records] for grade in grades]))
"""


def grade_trees(course: Path, exercise: str, *trees: str) -> list[list[dict[str, Any]]]:
    """The records of one exercise of several trees, graded in one process."""
    command = [sys.executable, "-c", GRADE_TREES, exercise, *trees]
    done = subprocess.run(command, cwd=course, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

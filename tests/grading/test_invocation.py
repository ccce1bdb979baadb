"""How pytest is called: what it takes for its configuration, and in which environment."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.grading.conftest import ROOT, environment, write_hand_in

POISON = "raise SystemExit('the grader ran a hand-in')\n"


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """A right hand-in with conftest files that nobody but pytest would run."""
    tree = write_hand_in(tmp_path / "anna", mean=(ROOT / "tests/grading/course/solutions/week1/mean.py").read_text())
    for folder in (tree, tree / "tests", tree / "week1"):
        folder.mkdir(exist_ok=True)
        (folder / "conftest.py").write_text(POISON)
    return tree


@pytest.mark.parametrize(
    "words", [["exercises", "--impl", "TREE"], ["--impl", "TREE", "exercises"], ["exercises", "--impl=TREE"]]
)
def test_a_conftest_of_a_hand_in_is_never_run(toy, run_pytest, poisoned, words):
    run = run_pytest(toy, *(word.replace("TREE", str(poisoned)) for word in words))
    assert "the grader ran a hand-in" not in run.text
    assert run.status == 0 and run.grade["records"]


@pytest.mark.parametrize("words", [["--impl", "TREE"], ["--impl", "TREE", "exercises"]])
def test_the_configuration_of_a_hand_in_is_refused(toy, run_pytest, poisoned, words):
    (poisoned / "pytest.ini").write_text("[pytest]\npython_files = evil.py\n")
    run = run_pytest(toy, *(word.replace("TREE", str(poisoned)) for word in words))
    assert run.status == 4
    assert f"write --impl={poisoned}, in one word" in " ".join(run.text.split())


def test_a_hand_in_that_is_a_copy_of_the_course_does_not_replace_it(toy, run_pytest, tmp_path):
    fork = shutil.copytree(toy, tmp_path / "fork")
    (fork / "conftest.py").write_text(POISON)
    run = run_pytest(toy, "--impl", str(fork))
    assert run.status == 4 and "in one word" in run.text
    run = run_pytest(toy, f"--impl={fork}", "exercises")
    assert run.status == 4 and f"give its exercises: --impl {fork}/exercises" in " ".join(run.text.split())
    run = run_pytest(toy, f"--impl={fork}/exercises", "exercises")
    assert run.grade["records"] and "the grader ran a hand-in" not in run.text


@pytest.mark.parametrize("arguments", [["exercises", "tests"], ["--keep-duplicates", "exercises", "exercises/week1"]])
def test_no_test_is_counted_twice(toy, run_pytest, arguments):
    run = run_pytest(toy, *arguments, "--impl=solutions")
    assert run.status == 4 and "hold the same tests" in " ".join(run.text.split())


def test_pytest_alone_grades_the_exercises(run_pytest):
    collected = run_pytest(ROOT, "--collect-only", "-q").text.splitlines()
    tests = [line for line in collected if "::" in line]
    assert tests and all(line.startswith("exercises/week") for line in tests)


def test_the_plugin_leaves_other_projects_alone(tmp_path, run_pytest):
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    run = run_pytest(tmp_path, "-p", "grading.plugin")
    assert run.status == 0 and "1 passed" in run.text and "points" not in run.text


def test_another_environment_is_named_in_one_sentence(tmp_path):
    for name in ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py"):
        file = Path(importlib.import_module(name).__file__)
        found = file.parent if file.name == "__init__.py" else file
        (tmp_path / found.name).symlink_to(found)
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pytest", "exercises/week1/self_attention.py"],
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 4
    assert "has no torch" in done.stderr and "make setup" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr

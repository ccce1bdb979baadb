"""Tests of the grader's tests: if a check is removed from the grader, one of the neighbouring tests must notice.

Each wrong grader is a copy of `grading/` with one change. It grades a hand-in or runs a test that the right grader
handles; the outcome must differ.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.grading.conftest import ROOT, TOY, environment, grade_trees, write_hand_in
from tests.grading.test_students import BROKEN


def wrong_grader(folder: Path, file: str, right: str, wrong: str) -> Path:
    """A copy of everything that the grader's tests need, with one change."""
    copy = folder / "wrong"
    for name in ("grading", "tests/grading"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "styles"))
    for name in ("conftest.py", "pyproject.toml", "README.md", "tests/__init__.py"):
        shutil.copy(ROOT / name, copy / name)
    path = copy / "grading" / file
    text = path.read_text("utf-8")
    assert text.count(right) == 1, f"{file} must contain {right!r} exactly once: update this test"
    path.write_text(text.replace(right, wrong), "utf-8")
    return copy


# ruff: noqa: E501 - on one line, a change is easy to compare with the original
# A removed check, and the broken hand-in that would then no longer get the right message.
UNNOTICED = {
    "a tensor": ("judge/structure.py", 'if not isinstance(answer, torch.Tensor):\n                fail("no', 'if False:\n                fail("no', "a list"),
    "the dtype": ("judge/structure.py", "if dtype is not None and answer.dtype != dtype:", "if False:", "another dtype"),
    "the shape": ("judge/structure.py", "if tuple(answer.shape) != tuple(right.shape):", "if False:", "another shape"),
    "a plain tensor": ("judge/structure.py", 'if seen.type != "Tensor":', "if False:", "a parameter"),
    "unchanged inputs": ("judge/structure.py", "if number not in allowed:", "if False:", "inputs that change"),
    "memory of its own": ("judge/structure.py", "        if shared:", "        if False:", "a view of the input"),
    "a graph": ("judge/answer.py", "if worst.name in question.wanted and not any(facts.requires_grad for facts in got.result.facts):", "if False:", "no graph"),
    "the signature": ("run/trouble.py", "        signature.bind(*args, **kwargs)\n", "        pass\n", "too few parameters"),
    "its own tree": ("course/trees.py", "if names := forbidden_imports(source, PACKAGES):", "if names := []:", "the answers of another tree"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNNOTICED)
def test_a_check_that_is_missing_is_noticed(tmp_path, monkeypatch, what):
    file, right, wrong, hand_in = UNNOTICED[what]
    copy = wrong_grader(tmp_path, file, right, wrong)
    source, words = BROKEN[hand_in]
    tree = str(write_hand_in(tmp_path / "hand-in", mean=source))
    monkeypatch.setattr("tests.grading.conftest.ROOT", copy)
    try:
        (records,) = grade_trees(TOY, "week1/mean", tree)
    except (AssertionError, subprocess.TimeoutExpired):
        return  # the run crashed: noticed
    assert not any(record["verdict"] == "failed" and re.search(words, record["reason"]) for record in records)


# A change, and the test that must then fail.
CAUGHT = {
    "numbers are not compared": ("judge/answer.py", "    if comparison.ok:\n", "    if True:\n", "test_check.py::test_an_exercise_with_nothing_wrong_is_accepted"),
    "gradients are not compared": ("judge/question.py", "if key is not None:", "if False:", "test_students.py::test_partial_credit_is_earned_part_by_part"),
    "no partial credit": ("session/verdict.py", "else sum(part.points for part in parts.values())", "else 0.0", "test_students.py::test_partial_credit_is_earned_part_by_part"),
    "always success": ("session/finish.py", "elif not grade.complete or self._regressed():", "elif False:", "test_students.py::test_an_unstarted_exercise_says_what_there_is_to_earn"),
    "a test forgotten in the total": ("data/record.py", "sum(record.points for record in self.records if record.counted)", "sum(record.points for record in self.records[1:] if record.counted)", "test_students.py::test_everything_earned_is_success"),
    "points of what could not be graded": ("data/record.py", "return self.verdict in COUNTED", "return True", "test_students.py::test_what_a_library_lacks_is_not_offered"),
    "any mistake will do": ("mistakes/recogniser.py", "if len(texts) == 1 and", "if True or", "test_check.py::test_what_is_wrong_is_refused[two mistakes that look alike]"),
    "no mistake is known": ("mistakes/recogniser.py", "return list(alive[0]) if len(texts) == 1 and", "return [] if True or", "test_students.py::test_a_wrong_answer_is_explained"),
    "the seed is ignored": ("session/options.py", 'seed=_seed(option("--grading-seed"))', "seed=0", "test_students.py::test_another_seed_gives_other_numbers_and_the_same_grade"),
    "the child may read everything": ("run/limits.py", "        sys.addaudithook(hook)\n", "        pass\n", "test_isolation.py::test_a_disaster_costs_one_test[reading the solution]"),
}  # fmt: skip


@pytest.mark.parametrize("what", CAUGHT)
def test_a_wrong_grader_is_caught(tmp_path, what):
    file, right, wrong, test = CAUGHT[what]
    copy = wrong_grader(tmp_path, file, right, wrong)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/grading/{test}"]
    environment_ = {**environment(), "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment_, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout

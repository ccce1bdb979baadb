"""`python -m grading check` reports what is wrong with an exercise, in a sentence that says what to do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from grading.author.check import likely_first
from grading.course.layout import Course
from grading.course.trees import find_tree
from grading.data.record import Grade, Record
from grading.mistakes.bank import MistakeError, load_bank
from grading.session.outline import outline
from tests.grading.conftest import ROOT, environment


def check(course: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "grading", "--root", str(course), "check", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1700)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_an_exercise_with_nothing_wrong_is_accepted(toy):
    status, text = check(toy)
    assert (status, text.count("\n")) == (0, 1), text
    assert re.match(r"✓ week1/mean: all of 8 known mistakes lose points, 8 of 8 recognised by name, \d+ s", text)


def test_a_quick_check_looks_for_fewer_names(toy):
    status, text = check(toy, "--quick")
    assert status == 0, text
    assert re.match(r"✓ week1/mean: all of 8 known mistakes lose points, 1 of 1 recognised by name, \d+ s", text)


def test_a_mistake_meets_first_what_is_likely_to_reject_it():
    tests = (("slow", "mean", 2.0), ("other", "total", 0.1), ("quick", "mean", 0.1), ("nearby", "total", 3.0))
    records = [
        Record(f"week1/mean::{name}", "", "passed", points=1, max_points=1, seconds=seconds, test_code=code)
        for name, code, seconds in tests
    ]
    solution = Grade(tuple(records), implementation="solutions")
    assert likely_first(solution, "mean", "nearby", hurry=True) == ["nearby", "quick", "other", "slow"]
    assert likely_first(solution, "mean", "nearby", hurry=False) == ["nearby", "slow", "quick", "other"]
    assert likely_first(solution, "", "", hurry=False) == ["slow", "other", "quick", "nearby"]


SOLUTION, STUB = "solutions/week1/mean.py", "exercises/week1/mean.py"
TESTS, BANK = "tests/week1/test_mean.py", "tests/mistakes/week1/mean.toml"

# A change to the toy course, and the sentence that must be reported.
WRONGS = {
    "a solution that loses points": (
        [(SOLUTION, "(x * weights).sum(dim), total", "(x * weights).sum(dim), 2 * total")],
        "week1/mean: the solution loses points in test_plain_mean",
    ),
    "a stub out of step": (
        [(STUB, "The mean of x", "A mean of x")],
        "the stub is out of date; run python -m grading stubs",
    ),
    "a stub that earns points": (
        [
            (
                STUB,
                "    raise NotImplementedError\n\n\nclass",
                "    return x.mean(dim) if weights is None else x\n\n\nclass",
            )
        ],
        "points without any code",
    ),
    "a mistake that loses no points": (
        [(BANK, '= " + 0 * self.gain', '= " * (self.gain + 0)')],
        "the known mistake 'gain-forgotten' loses no points: the graded tests have a hole",
    ),
    "a mistake without an explanation": (
        [(BANK, 'explanation = "The gain is never multiplied in."', "")],
        "the mistake 'gain-forgotten' has no explanation",
    ),
    "two mistakes that look alike": (
        [
            (
                BANK,
                "[weights-ignored]",
                "[the-sum]\nexplanation = 'This is the sum of the numbers and not their mean.'\n"
                "old = 'return _divide((x * weights).sum(dim), total)'\nnew = 'return (weights * x).sum(dim)'\n\n"
                "[weights-ignored]",
            )
        ],
        "2 of 9 known mistakes are not recognised by name: the-sum, not-divided",
    ),
    "a mistake that does not fit the solution": (
        [(BANK, 'old = " * self.gain', 'old = " / self.gain')],
        "the mistake 'gain-forgotten' replaces a text that stands 0 times in the solution",
    ),
    "a mistake with another key": (
        [(BANK, "[gain-forgotten]", "[gain-forgotten]\nhint = 1")],
        "the mistake 'gain-forgotten' does not know 'hint'",
    ),
    "a mistake in a file that is not there": (
        [(BANK, "[gain-forgotten]", "[gain-forgotten]\nfile = 'week1/_gain'")],
        "the mistake 'gain-forgotten' changes week1/_gain, which does not exist",
    ),
    "an oracle that is not there": (
        [(TESTS, "import torch\n", "import torch\nfrom tests.oracles import nothing\n")],
        "its graded tests can't be collected: tests/week1/test_mean.py: ModuleNotFoundError: No module named",
    ),
    "tests that leave themselves out": (
        [(TESTS, "import torch\n", "import torch\npytest.importorskip('nothing_there')\n")],
        "its graded tests can't be collected: tests/week1/test_mean.py: Skipped: could not import 'nothing_there'",
    ),
    "a bank that is no TOML": ([(BANK, "[gain-forgotten]", "[gain-forgotten")], "is not valid TOML"),
    "a test without points": (
        [(TESTS, "@pytest.mark.points(2)\n", "")],
        "test_centred has no points; mark it with @pytest.mark.points",
    ),
    "a section that is not there": (
        [
            (
                TESTS,
                '@pytest.mark.handout("mean")\n@pytest.mark.limit',
                '@pytest.mark.handout("means")\n@pytest.mark.limit',
            )
        ],
        "test_centred points to exercises/week1/mean.md#means, which has no such section",
    ),
    "a numeric test that is too loose": (
        [
            (
                TESTS,
                'expect(submission.make("Centred", 8).load(state).call(x, grad=True)).close_to(centred, state, x)',
                'expect(submission.make("Centred", 8).load(state).call(x)).close_to(centred, state, x, factor=1e30)',
            )
        ],
        "test_centred passes although the output is all zeros",
    ),
    "one that is too loose through another function": (
        [
            (
                TESTS,
                'expect(submission.make("Centred", 8).load(state).call(x, grad=True)).close_to(centred, state, x)',
                'loosely(submission.make("Centred", 8).load(state).call(x), state, x)',
            ),
            (
                TESTS,
                "def centred(",
                "def loosely(got, *args):\n    expect(got).close_to(centred, *args, factor=1e30)\n\n\ndef centred(",
            ),
        ],
        "test_centred passes although the output is all zeros",
    ),
    "a refusal that refuses everything": (
        [(TESTS, ", unlike=ordinary", "")],
        "test_wrong_length_is_refused earns points although every call is refused",
    ),
}


@pytest.mark.parametrize("what", WRONGS)
def test_what_is_wrong_is_refused(toy, what):
    changes, sentence = WRONGS[what]
    for path, old, new in changes:
        edit(toy / path, old, new)
    status, text = check(toy)
    assert status == 1
    assert sentence in text, text


def test_a_mistake_may_be_in_a_private_module(toy):
    """What the solution imports from beside it is in no stub, and its mistakes lose points like the solution's own."""
    source, start = (toy / SOLUTION).read_text("utf-8"), "def _divide("
    helper = "import torch\n\n\n" + source[source.index(start) :].replace("_divide", "divide")
    (toy / "solutions/week1/_division.py").write_text(helper, "utf-8")
    edit(toy / SOLUTION, source[source.index(start) :], "")
    edit(toy / SOLUTION, "import torch\n", "import torch\n\nfrom ._division import divide as _divide\n")
    edit(toy / BANK, "[zero-weights-give-nan]", "[zero-weights-give-nan]\nfile = 'week1/_division'")
    status, text = check(toy)
    assert status == 0, text
    assert "all of 8 known mistakes lose points, 8 of 8 recognised" in text


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("exercises/week1/mean.md", "has no handout"),
        ("exercises/week1/mean.ko.md", "has no Korean handout"),
        (SOLUTION, "has no solution"),
    ],
)
def test_a_file_that_is_missing_is_refused(toy, path, sentence):
    (toy / path).unlink()
    status, text = check(toy)
    assert status == 1
    assert sentence in text


OUTLIVES = """
import tempfile
from pathlib import Path
from grading.author.inner_run import grade_tree
from grading.course.layout import Course
from grading.mistakes.bank import load_bank
course = Course(Path.cwd())
tree = load_bank(course, "week1/mean")[0].tree(course)
grade = grade_tree(course, "week1/mean", tree)
file = tree.file("week1/mean")
assert grade.records and grade.points < grade.max_points
assert file.is_relative_to(tempfile.gettempdir()) and not file.is_relative_to(course.root), file
"""


def test_a_mistakes_tree_outlives_a_run(toy):
    """One process grades many trees and replays each known mistake in every run."""
    done = subprocess.run([sys.executable, "-c", OUTLIVES], cwd=toy, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_exercise_that_is_not_there_is_one_line(toy):
    command = [sys.executable, "-m", "grading", "--root", str(toy), "check", "week1/men"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stderr == "no exercise matches week1/men; the exercises are week1/mean\n"


@pytest.mark.parametrize("exercise", Course(ROOT).exercises)
def test_every_exercise_of_the_course_passes(exercise):
    """The heart of the project: every known mistake loses points, and a sample of them is recognised."""
    status, text = check(ROOT, exercise, "--quick")
    print(text)
    assert status == 0, text


def test_unstarted_exercises_have_the_tests_of_started_ones():
    """Reading a test file without importing it finds the tests that pytest collects."""
    collected = []
    for impl in ("exercises", "solutions"):
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "exercises", "--impl", impl]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout
        collected.append([line for line in done.stdout.splitlines() if "::" in line])
    assert collected[0] == collected[1]
    assert {line.partition("::")[0] for line in collected[0]} == {
        f"exercises/{name}.py" for name in Course(ROOT).exercises
    }


@pytest.mark.parametrize("exercise", Course(ROOT).exercises)
def test_an_unstarted_exercise_is_listed_without_importing_its_tests(exercise):
    """Its tests import torch, and a student who has not started should not wait for that."""
    path = Course(ROOT).tests(exercise)
    takes_marks_from_elsewhere = "from tests.kernels import COMPILED" in path.read_text("utf-8")
    assert (outline(path) is None) == takes_marks_from_elsewhere


@pytest.mark.parametrize("exercise", Course(ROOT).exercises)
def test_a_stub_can_be_imported(exercise):
    find_tree(Course(ROOT), "exercises", ROOT).load(exercise)


@pytest.mark.parametrize("exercise", Course(ROOT).exercises)
def test_every_explanation_is_a_sentence(exercise):
    for mistake in load_bank(Course(ROOT), exercise):
        assert 40 <= len(mistake.explanation) <= 500, mistake.name
        assert mistake.explanation[-1] in ".!?)…", mistake.name


def test_a_mistake_must_stand_once(toy):
    (mistake, *_) = load_bank(Course(toy), "week1/mean")
    with pytest.raises(MistakeError, match="stands 2 times"):
        mistake.apply(mistake.changes[0][0] * 2)

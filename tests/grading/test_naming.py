"""Known mistakes are named: one, or several at once, the same in every selection of tests, and never a wrong one."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from grading.course.layout import Course
from grading.data.plain import TensorFacts
from grading.data.result import Result, Trouble
from grading.mistakes.agreement import agreement
from grading.mistakes.bank import MistakeError, load_bank
from grading.mistakes.variants import Source, Variants
from grading.run.cpu import cpu_seconds
from tests.grading.conftest import ROOT, TOY, environment

# --- a toy course: hand-ins and what they are told, many in one process ---

# Two mistakes that only another call of the submission can tell apart: in a plain mean both answer twice as much.
LOOK_ALIKE = """
[twice-without-weights]
explanation = "Without weights the mean comes twice as large."
old = "    total = weights.sum(dim)\\n"
new = "    total = weights.sum(dim) / (2 if torch.all(weights == 1) else 1)\\n"

[twice]
explanation = "Every mean comes twice as large."
old = "    return _divide((x * weights).sum(dim), total)"
new = "    return 2 * _divide((x * weights).sum(dim), total)"
"""

NAMES = """
import json, sys
from pathlib import Path
from grading.author.inner_run import grade_tree
from grading.course.layout import Course
from grading.course.trees import find_tree
from grading.mistakes.bank import load_bank
from grading.mistakes.variants import Variants

course, exercise = Course(Path.cwd()), "week1/mean"
variants, bank = Variants(course, exercise), {mistake.name: mistake for mistake in load_bank(course, exercise)}
told = []
for mistakes, source, tests in json.load(sys.stdin):
    tree = variants.tree([bank[name] for name in mistakes])
    if source:
        tree = find_tree(course, "solutions", course.root).overlaid("hand-in", exercise, source)
    grade = grade_tree(course, exercise, tree, tests, recognise=True, several=20)
    failed = [record for record in grade.records if record.verdict == "failed"]
    told.append([grade.points, {record.test: record.mistakes for record in failed}])
print(json.dumps(told))
"""

Told = tuple[float, dict[str, list[str]]]


def tell(course: Path, *hand_ins: tuple[list[str], str, list[str] | None]) -> list[Told]:
    """The points and the names of each failed test, for hand-ins with these mistakes or with this source."""
    done = subprocess.run(
        [sys.executable, "-c", NAMES],
        input=json.dumps(hand_ins), cwd=course, env=environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(points, names) for points, names in json.loads(done.stdout)]


SEVERAL = {
    "in different functions": ["unbiased", "gain-forgotten"],
    "of one function": ["unbiased", "no-gradient-of-weights"],
    "one that hides in every test of the other": ["not-divided", "mean-of-everything"],
    "three": ["unbiased", "no-gradient-of-weights", "gain-forgotten"],
}


def test_several_mistakes_are_all_named(toy):
    told = tell(toy, *((mistakes, "", None) for mistakes in SEVERAL.values()))
    for what, mistakes, (_, names) in zip(SEVERAL, SEVERAL.values(), told, strict=True):
        assert {name for found in names.values() for name in found} == set(mistakes), (what, names)


TESTS = ["test_plain_mean[float32]", "test_plain_mean[float16]", "test_centred", "test_a_scenario"]


def test_a_name_does_not_depend_on_the_tests_that_run(toy):
    with (toy / "tests/mistakes/week1/mean.toml").open("a", encoding="utf-8") as bank:
        bank.write(LOOK_ALIKE)
    selections = [None, *([test] for test in TESTS)]
    for name in ("twice-without-weights", "twice", "not-divided", "zero-weights-give-nan"):
        (_, whole), *parts = tell(toy, *(([name], "", tests) for tests in selections))
        assert whole and all(found == [name] for found in whole.values())
        for _, names in parts:
            assert all(whole[test] == found for test, found in names.items())


def test_a_question_costs_nothing_even_if_it_never_ends(toy):
    with (toy / "tests/mistakes/week1/mean.toml").open("a", encoding="utf-8") as bank:
        bank.write(LOOK_ALIKE)
    solution = (TOY / "solutions/week1/mean.py").read_text("utf-8")
    twice = solution.replace("    return _divide((x", "    return 2 * _divide((x")
    start = "    if weights is None:"
    hanging = twice.replace(start, f"    while weights is not None:\n        pass\n{start}")
    ((points, names),) = tell(toy, ([], hanging, ["test_plain_mean[float32]", "test_a_scenario"]))
    assert points == 0
    assert names == {"test_plain_mean[float32]": [], "test_a_scenario": []}


def test_a_selection_of_pytest_gets_the_name_of_the_whole_run(toy, run_pytest):
    with (toy / "tests/mistakes/week1/mean.toml").open("a", encoding="utf-8") as bank:
        bank.write(LOOK_ALIKE)
    solution = (TOY / "solutions/week1/mean.py").read_text("utf-8")
    (toy / "hand-in/week1").mkdir(parents=True)
    (toy / "hand-in/week1/mean.py").write_text(
        solution.replace("    return _divide((x", "    return 2 * _divide((x"), "utf-8"
    )
    for selection in (["tests/week1/test_mean.py::test_plain_mean[float16]"], ["tests", "-k", "plain and 16"]):
        run = run_pytest(toy, *selection, "--impl", "hand-in", "--isolate")
        assert run.record("test_plain_mean[float16]")["mistakes"] == ["twice"]


# --- changes laid over each other ---


@pytest.mark.parametrize("exercise", ["week1/self_attention", "week2/mxfp4"])
def test_a_variant_is_what_its_whole_file_would_be(exercise):
    course = Course(ROOT)
    variants = Variants(course, exercise)
    for mistake in load_bank(course, exercise)[::9]:
        quick, whole = variants.tree([mistake]), mistake.tree(course)
        assert quick.source(exercise) == whole.source(exercise)
        assert codes(quick.load(exercise)) == codes(whole.load(exercise)), mistake.name
        for tree in (quick, whole):
            tree.unload()


def codes(module: types.ModuleType) -> dict[str, Any]:
    """What a module's own functions name and say."""
    return {
        name: (value.__code__.co_names, value.__doc__)
        for name, value in vars(module).items()
        if isinstance(value, types.FunctionType) and value.__module__ == module.__name__
    }


def test_loading_a_whole_bank_takes_less_than_a_second():
    course = Course(ROOT)
    bank = load_bank(course, "week1/self_attention")
    variants = Variants(course, "week1/self_attention")
    variants.solution.load("week1/self_attention")
    begun = time.process_time()
    for mistake in bank:
        tree = variants.tree([mistake])
        tree.load("week1/self_attention")
        variants.drop(tree)
    assert len(bank) > 50 and time.process_time() - begun < 1


def test_mistakes_that_change_the_same_text_do_not_fit_together():
    course = Course(TOY)
    bank = {mistake.name: mistake for mistake in load_bank(course, "week1/mean")}
    variants = Variants(course, "week1/mean")
    with pytest.raises(MistakeError, match="change the same text"):
        variants.tree([bank["not-divided"], bank["no-gradient-of-weights"]])
    both = variants.tree([bank["unbiased"], bank["gain-forgotten"]]).source("week1/mean")
    assert "weights.sum(dim) - 1" in both and "+ 0 * self.gain" in both
    assert both == variants.tree([bank["gain-forgotten"], bank["unbiased"]]).source("week1/mean")


def test_a_source_is_divided_at_its_statements():
    text = '"""Doc."""\n\nimport math\n\n\n@staticmethod\ndef f():\n    return 1\n\n\nx = 1; y = 2\n'
    source = Source("file.py", text)
    assert "".join(text[start:end] for start, end in source.bounds) == text
    assert [names for names in source.defines if names] == [{"f"}, {"x", "y"}]


# --- whether two wrong answers are the same wrong answer ---


def result(*values: Any) -> Result:
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    facts = [TensorFacts("Tensor", tuple(t.shape), str(t.dtype)[6:], "cpu", True, False, ()) for t in tensors]
    return Result(output=list(values), facts=tuple(facts))


RIGHT = torch.linspace(1, 2, 12)
NAN = torch.full((12,), math.nan)


@pytest.mark.parametrize(
    ("student", "candidate", "right", "says"),
    [
        (2 * RIGHT, 2 * RIGHT + 1e-6, RIGHT, "enough"),
        (2 * RIGHT, 3 * RIGHT, RIGHT, "disagree"),
        (RIGHT, RIGHT, RIGHT, "both right"),
        (NAN, NAN, RIGHT, "too little"),
        (torch.where(RIGHT > 1.5, NAN, RIGHT), torch.where(RIGHT > 1.5, NAN, RIGHT), RIGHT, "enough"),
        (NAN, torch.where(RIGHT > 1.5, NAN, RIGHT), RIGHT, "disagree"),
        (math.nan, math.nan, 1.0, "too little"),
        (math.inf, math.inf, 1.0, "too little"),
        (torch.tensor(2.0), torch.tensor(2.01), torch.tensor(1.0), "disagree"),  # one number may be near by chance
        (2 * RIGHT, 2.01 * RIGHT, RIGHT, "enough"),
        (False, False, True, "too little"),
        (None, None, 1.0, "too little"),
        (None, None, RIGHT, "enough"),
        (3, 3, 4, "enough"),
        (True, 1, 0, "disagree"),
    ],
)
def test_how_much_it_says_that_two_answers_are_alike(student, candidate, right, says):
    evidence = agreement(result(student), result(candidate), result(right))
    assert shown(evidence) == says


def shown(evidence: float | None) -> str:
    if not evidence:
        return "disagree" if evidence is None else "both right"
    return "enough" if evidence >= 1 else "too little"


def test_two_calls_that_do_not_end_say_little():
    late = Result(trouble=Trouble("time", "did not finish within 30 s (stopped at line 3)"))
    evidence = agreement(late, Result(trouble=Trouble("time", "did not finish within 10 s")), result(RIGHT))
    assert evidence is not None and evidence < 1


# --- patience ---


def test_patience_is_counted_in_cpu_seconds():
    begun = cpu_seconds()
    time.sleep(0.3)
    asleep = cpu_seconds() - begun
    begun = cpu_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(10_000_000))"], check=True)
    assert asleep < 0.1 < cpu_seconds() - begun

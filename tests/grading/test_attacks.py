"""The attacks of benchmarks/attacks are well formed and in the table; a few of them are tried."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks.attacks.bank import CONTROLS, KINDS, Attack, all_attacks
from benchmarks.attacks.page import BEGIN, END, PAGE
from benchmarks.attacks.trial import Trials, points_offered
from grading.course.layout import Course
from tests.grading.conftest import ROOT

ATTACKS = all_attacks()
PLACES = {"COURSE": "/course", "OTHERS": "/others", "SITE": "/site", "PORT": "1"}
TRIED = [
    "answers/open_the_solution",
    "answers/table_for_the_practice_seed",
    "controls/right_in_an_odd_style",
    "word/few_operations_no_answer",
    "word/nothing_but_counts",
]


def test_there_are_a_hundred_attacks_of_every_kind_and_controls_each_way():
    assert len([attack for attack in ATTACKS if attack.honest is None]) >= 100
    assert {attack.kind for attack in ATTACKS} == set(KINDS)
    assert {folder.name for folder in (ROOT / "benchmarks/attacks").iterdir() if any(folder.glob("*.py"))} == set(KINDS)
    controls = [attack.honest for attack in ATTACKS if attack.kind == CONTROLS]
    assert controls.count(True) >= 2 and controls.count(False) >= 2


def functions(exercise: str) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(Course(ROOT).tests(exercise).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_says_what_it_does(attack: Attack, tmp_path: Path):
    """A title and a strategy; existing tests; a file that Python can read, without a word about what it is."""
    title, _, strategy = attack.strategy.partition("\n")
    assert 5 < len(title) <= 100 and strategy.strip()
    assert attack.tests and set(attack.tests) <= functions(attack.exercise)
    source = attack.source(PLACES)
    compile(source, attack.name, "exec")
    assert title not in source and "TESTS = [" not in source and "def prepare" not in source


def test_the_table_lists_every_attack():
    text = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    assert [attack.name for attack in ATTACKS if f"/attacks/{attack.name}.py)" not in text] == []


def test_attacks_that_are_tried_here_come_to_nothing():
    trials = Trials(["--isolate"], points_offered())
    try:
        outcomes = {attack.name: trials.run(attack) for attack in ATTACKS if attack.name in TRIED}
    finally:
        trials.close()
    assert outcomes.keys() == set(TRIED)
    assert {name: outcome.harms for name, outcome in outcomes.items() if not outcome.held} == {}


def test_what_gets_through_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hand-in that rewrites the course under no protection counts as harm, and the course is put in order."""
    attack = next(each for each in ATTACKS if each.name == "grader/judge_that_says_yes")
    trials = Trials(["--isolate"], {})
    try:
        monkeypatch.setattr(
            trials,
            "_grade",
            lambda outcome, scene, attack: exec((scene / "hand-in/week1/self_attention.py").read_text()),
        )
        outcome = trials.run(attack)
        assert outcome.verdict == "harmed" and "grading/judge/closeness.py" in outcome.harms[0]
        assert "nobody looks here" not in (trials.course / "grading/judge/closeness.py").read_text("utf-8")
    finally:
        trials.close()

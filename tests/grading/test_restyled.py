"""Known mistakes get their names in another style than the solution's; `python -m tests.grading.restyled` tries all."""

from __future__ import annotations

import pytest

from grading.course.layout import Course
from grading.mistakes.bank import load_bank
from tests.grading.conftest import ROOT
from tests.grading.restyled import STYLES, restyled

EXERCISES = sorted({str(path.relative_to(STYLES).with_suffix("")).partition("/")[2] for path in STYLES.rglob("*.toml")})

# One of each exercise. As they stand, without the views of agents, they would not be named.
SAMPLE = {
    "week2/langgraph_agent": "limit-raised",  # by an exception of its own
    "week2/crewai_team": "prefix-twice",  # in prompts that hold more than they must
    "week2/evaluation": "max-length-off-by-one",  # refused in other words
}


@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_mistakes_are_those_of_the_bank(exercise):
    """Each fits the style's file, and is a mistake of the bank."""
    known = {mistake.name for mistake in load_bank(Course(ROOT), exercise)}
    for each in restyled(exercise):
        source = (STYLES / each.style / f"{exercise}.py").read_text("utf-8")
        assert each.mistake.name in known
        compile(each.mistake.apply(source), each.mistake.name, "exec")


@pytest.mark.parametrize("exercise", SAMPLE)
def test_a_mistake_is_named_in_another_style(exercise):
    (found,) = [each for each in restyled(exercise) if each.mistake.name == SAMPLE[exercise]]
    assert found.names(Course(ROOT)) == {SAMPLE[exercise]}

"""No right answer is refused: correct implementations in other styles, and libraries, keep their points."""

from __future__ import annotations

from pathlib import Path

import pytest

from grading.course import Course
from grading.trees import find_tree, known_trees
from tests.grading.conftest import ROOT, grade_trees

STYLES = Path(__file__).parent / "styles"
STYLED = sorted(str(path.relative_to(STYLES).with_suffix("")) for path in STYLES.glob("*/week*/*.py"))


@pytest.mark.parametrize("name", STYLED)
def test_a_right_answer_in_another_style_earns_everything(name):
    style, _, exercise = name.partition("/")
    (records,) = grade_trees(ROOT, exercise, str(STYLES / style))
    lost = [record for record in records if record["verdict"] != "passed"]
    assert not lost, "\n\n".join(f"{record['title']}\n{record['message']}" for record in lost)


@pytest.mark.parametrize("exercise", Course(ROOT).exercises)
def test_every_exercise_has_other_right_answers(exercise):
    fewest = 5 if exercise == "week1/self_attention" else 2
    assert sum(name.endswith(f"/{exercise}") for name in STYLED) >= fewest


@pytest.mark.parametrize("library", known_trees(Course(ROOT))[2:])
def test_a_library_is_graded_like_a_submission(library):
    """It offers something of each exercise that it claims, and the grader does not break on it."""
    python = find_tree(Course(ROOT), library, ROOT).python
    if python is not None and not python.exists():
        pytest.skip(f"{library} is graded in an environment of its own: make {library}")
    for path in sorted((ROOT / "tests/libraries" / library).glob("week*/*.py")):
        (records,) = grade_trees(ROOT, f"{path.parent.name}/{path.stem}", library)
        assert any(record["verdict"] == "passed" for record in records), path
        assert not [record["message"] for record in records if record["verdict"] in ("error", "not started")]

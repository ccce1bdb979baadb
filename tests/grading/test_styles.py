"""No right answer is rejected: correct implementations in other styles, and libraries, keep their points."""

from __future__ import annotations

from pathlib import Path

import pytest

from grading.course.layout import Course
from grading.course.trees import find_tree
from tests.grading.conftest import ROOT, grade_trees

STYLES = Path(__file__).parent / "styles"
LIBRARIES = ROOT / "tests/libraries"
NO_VERDICT = ("not gradable here", "inconclusive")  # without a GPU; for speed, on a machine that is too busy
OFFERED = sorted(str(path.relative_to(LIBRARIES).with_suffix("")) for path in LIBRARIES.glob("*/week*/*.py"))


@pytest.mark.parametrize("exercise", Course(ROOT).exercises)
def test_right_answers_in_other_styles_earn_everything(exercise):
    """Graded in turn in one process, because importing takes as long as grading."""
    styles = sorted(style for style in STYLES.iterdir() if (style / f"{exercise}.py").is_file())
    assert len(styles) >= (5 if exercise == "week1/self_attention" else 2)
    for style, records in zip(styles, grade_trees(ROOT, exercise, *map(str, styles)), strict=True):
        lost = [record for record in records if record["verdict"] not in ("passed", *NO_VERDICT)]
        assert not lost, style.name + "\n\n".join(f"\n{record['title']}\n{record['message']}" for record in lost)


@pytest.mark.parametrize("name", OFFERED)
def test_a_library_is_graded_like_a_submission(name):
    """It offers some of each exercise that it has a file for, and the grader does not break on it."""
    library, _, exercise = name.partition("/")
    python = find_tree(Course(ROOT), library, ROOT).python
    if python is not None and not python.exists():
        pytest.skip(f"{library} is graded in its own environment: make {library}")
    (records,) = grade_trees(ROOT, exercise, library)
    needs_a_gpu = all("GPU" in record["reason"] for record in records)
    assert needs_a_gpu or any(record["verdict"] == "passed" for record in records)
    assert not [record["message"] for record in records if record["verdict"] in ("error", "not started")]

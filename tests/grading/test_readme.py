"""What the README says is there."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from grading.course.layout import Course
from tests.grading.conftest import ROOT, environment

README = (ROOT / "README.md").read_text("utf-8")
COURSE = Course(ROOT)


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_its_options_are_in_the_help():
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--editable", "--quick"}
    assert options
    assert [option for option in options if option not in shown.stdout] == []


def test_its_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


@pytest.mark.parametrize("exercise", COURSE.exercises)
def test_it_lists_every_exercise(exercise):
    assert f"(exercises/{exercise}.md)" in README


@pytest.mark.parametrize("exercise", COURSE.exercises)
@pytest.mark.parametrize("language", ["", "ko"])
def test_handouts_lead_somewhere(exercise, language):
    handout = COURSE.handout(exercise, language)
    text = handout.read_text("utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not (handout.parent / link).exists()] == []
    anchors = set(re.findall(r'<a id="([^"]+)"', text))
    assert anchors
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


@pytest.mark.parametrize("exercise", COURSE.exercises)
def test_both_languages_have_the_same_sections(exercise):
    sections = [
        re.findall(r'<a id="([^"]+)"', COURSE.handout(exercise, each).read_text("utf-8")) for each in ("", "ko")
    ]
    assert sections[0] == sections[1]

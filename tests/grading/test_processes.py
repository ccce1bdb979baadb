"""`@pytest.mark.process`: graded requests in their own process, with settings that must precede an import."""

from __future__ import annotations

import sys

import pytest

from tests.grading.conftest import write_hand_in

SOLUTION = '''"""The environment of a submission."""

from __future__ import annotations

import os
import socket

MODE = os.environ.get("MODE")  # as some libraries do: later changes are not seen


def mode() -> str | None:
    """The value of MODE when this file was imported."""
    return MODE


def home() -> tuple[str, list[str], int]:
    """The home folder, its contents, and the process id."""
    return os.environ["HOME"], os.listdir(os.environ["HOME"]), os.getpid()


def connect(host: str) -> str:
    """The name of the exception from a connection, or "connected"."""
    try:
        socket.create_connection((host, 9), timeout=0.1)
    except OSError as error:
        return type(error).__name__
    return "connected"
'''

TESTS = '''"""Graded tests of week1/place."""

import os

import pytest

from grading import expect

pytestmark = pytest.mark.process(environment={"MODE": "quiet", "HOME": "{folder}"}, loopback=True)


@pytest.mark.points(1)
def test_mode(submission):
    """The mode is set before the import."""
    expect(submission.call("mode")).equal_to("quiet")


@pytest.mark.points(1)
def test_home(submission):
    """One process other than this serves all requests and has its own empty home."""
    first, second = submission.call("home").output, submission.call("home").output
    expect.that(first == second and not first[1] and first[0] != os.environ["HOME"], f"{first} {second}")
    expect.that(first[2] != os.getpid(), "the judge's process")


@pytest.mark.points(1)
@pytest.mark.parametrize("host", ["192.0.2.1", "example.invalid"])
def test_far(submission, host):
    """Other machines can't be reached."""
    expect(submission.call("connect", host)).equal_to("PermissionError")


@pytest.mark.points(1)
def test_near(submission):
    """This machine can be reached."""
    expect(submission.call("connect", "127.0.0.1")).equal_to("ConnectionRefusedError")
'''

MISTAKES = """
[mode-forgotten]
explanation = "The mode differs from that at the import."
old = "    return MODE\\n"
new = "    return None\\n"

[mode-loud]
explanation = "The mode is louder than it was at the import."
old = "    return MODE\\n"
new = "    return MODE.upper()\\n"
"""


@pytest.fixture
def course(toy):
    for path, text in {
        "solutions/week1/place.py": SOLUTION,
        "tests/week1/test_place.py": TESTS,
        "tests/mistakes/week1/place.toml": MISTAKES,
    }.items():
        (toy / path).write_text(text, "utf-8")
    return toy


@pytest.mark.parametrize("isolate", [(), ("--isolate",)], ids=["shared", "isolated"])
def test_requests_run_where_the_mark_says(course, run_pytest, isolate):
    run = run_pytest(course, "tests/week1/test_place.py", "--impl", "solutions", *isolate)
    assert [record["reason"] for record in run.grade["records"]] == [""] * 5
    assert run.status == 0


def test_known_mistakes_are_recognised_there_too(course, run_pytest):
    hand_in = write_hand_in(course.parent / "hand-in", place=SOLUTION.replace("return MODE", "return MODE.upper()"))
    run = run_pytest(course, "tests/week1/test_place.py", "--impl", str(hand_in))
    assert run.record("test_mode")["mistakes"] == ["mode-loud"]


def test_where_the_terminal_is_the_submissions_the_environment_is_the_marks(course, run_pytest):
    run = run_pytest(course, "tests/week1/test_place.py", "--impl", "solutions", "-s", "-k", "mode")
    assert (run.status, run.record("test_mode")["reason"]) == (0, "")


def test_a_library_may_have_an_environment_of_its_own(course, run_pytest):
    library = course / "tests/libraries/old"
    (library / "week1").mkdir(parents=True)
    (library / "week1/place.py").write_text(SOLUTION + "\nMODE = os.environ['ENVIRONMENT']\n", "utf-8")
    (library / "requirements.txt").write_text("", "utf-8")
    grade = ("tests/week1/test_place.py", "--impl", "old", "-k", "mode")
    absent = run_pytest(course, *grade).record("test_mode")
    assert (absent["verdict"], absent["reason"]) == (
        "not gradable here",
        "old needs its own environment: make old",
    )

    python = course / ".venvs/old/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nENVIRONMENT=quiet exec "{sys.executable}" "$@"\n', "utf-8")
    python.chmod(0o755)
    assert run_pytest(course, *grade).record("test_mode")["verdict"] == "passed"

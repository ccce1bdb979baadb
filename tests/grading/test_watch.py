"""`python -m grading watch`: what a student sees after a save, and in which order the tests run."""

from __future__ import annotations

import io
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from grading.course.layout import Course
from grading.course.trees import find_tree
from grading.data.record import Record
from grading.watch.grader import can_fork, next_exercise
from grading.watch.order import changed_names, in_order
from grading.watch.screen import Screen, View, section
from tests.grading.conftest import ROOT, environment, write_hand_in
from tests.grading.test_students import SOLUTION, with_body

WRONG = with_body("return x.sum(dim)")


def record(test: str, verdict: str = "passed", code: str = "", **more: object) -> Record:
    points = 1.0 if verdict == "passed" else 0.0
    return Record(f"week1/mean::{test}", test, verdict, points, 1.0, test_code=code, **more)  # type: ignore[arg-type]


# --- the order ---


def test_what_failed_runs_first_then_what_the_change_touches_and_speed_last():
    records = [
        record("test_fast", figures={"ratio": 1.0}),
        record("test_other", code="submission.call('total', x)"),
        record("test_mean", code="submission.call('mean', x)"),
        record("test_wrong", "failed"),
    ]
    assert in_order(records, {"mean"}) == ["test_wrong", "test_mean", "test_other", "test_fast"]


BEFORE = """import torch

SCALE = 2

def f(x):
    return g(x)

def g(x):
    return SCALE * x

def h(x):
    return x
"""


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("return x\n", "return -x\n", {"h"}),
        ("SCALE * x", "SCALE + x", {"g", "f"}),
        ("SCALE = 2", "SCALE = 3", {"SCALE", "g", "f"}),
        ("return x\n", "return  x  # the same\n", set()),
        ("def h(x)", "def k(x)", {"h", "k"}),
        ("def h(x)", "def h(x", {"f", "g", "h"}),
    ],
)
def test_a_change_concerns_what_uses_it(old, new, names):
    assert changed_names(BEFORE, BEFORE.replace(old, new)) == names


def test_after_the_last_exercise_comes_the_first():
    names = Course(ROOT).exercises
    assert next_exercise(Course(ROOT), names[0]) == names[1]
    assert next_exercise(Course(ROOT), names[-1]) == names[0]


# --- the screen ---


def shown(view: View, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=80, height=height, force_terminal=False)
    console.print(Screen(view))
    return console.file.getvalue().rstrip("\n").split("\n")  # type: ignore[attr-defined]


def view(*records: Record, **more: object) -> View:
    course = Course(ROOT)
    tree = find_tree(course, "exercises", ROOT)
    return View(course, "week1/moe", tree, {each.test: each for each in records}, **more)  # type: ignore[arg-type]


def test_the_first_failure_the_points_and_the_keys_fit_on_a_screen():
    failure = record("test_b", "failed", message="\n".join(f"line {n}" for n in range(60)), reason="line 0")
    lines = shown(view(record("test_a"), failure, first_verdict=0.42))
    assert lines[0] == "week1/moe  1 of 2 points  [####....]  2 tests, first verdict after 0.4 s"
    assert lines[2] == "test_b" and "line 5" in "\n".join(lines)
    assert lines[-1].startswith("space more   h hint   a all failures   n next exercise   q quit")
    assert len(lines) <= 24 and max(map(len, lines)) <= 80


def test_a_long_page_goes_on_with_space():
    failure = record("test_b", "failed", message="\n".join(f"line {n}" for n in range(60)), reason="line 0")
    page = view(failure)
    seen = ""
    for _ in range(10):
        seen += "\n".join(shown(page))
        page.top += page.step
        if not page.step or page.top > 60:
            break
    assert all(f"line {number}" in seen for number in range(60))


def test_the_solution_is_shown_only_once_everything_is_earned():
    assert "once every point is earned" in "\n".join(shown(view(record("test_a", "failed", reason="no"), page="diff")))
    done = view(record("test_a"), page="diff")
    assert done.difference().startswith("--- your week1/moe.py\n+++ the solution\n")
    assert "d the solution" in shown(done)[-1]


def test_a_hint_is_the_handouts_section_about_the_failure():
    handout = "exercises/week1/moe.md#renormalising"
    page = view(record("test_a", "failed", reason="no", handout=handout), page="hint")
    assert "Renormalised or not" in "\n".join(shown(page, 40))
    assert "Renormalised or not" in section(ROOT / "exercises/week1/moe.md", "renormalising").splitlines()[0]
    assert section(ROOT / "nowhere.md", "x") == ""


# --- the whole ---


@pytest.fixture
def watched(toy: Path) -> Path:
    """A hand-in in the toy course that is wrong."""
    return write_hand_in(toy / "hand-in", mean=WRONG)


def command(toy: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "grading", "--root", str(toy), "watch", *words]


needs_fork = pytest.mark.skipif(not can_fork(), reason="needs a system that can fork processes")


@needs_fork
def test_each_save_is_graded(toy, watched):
    """Into a pipe: the head, the first failure and the next step, for each save."""
    out = toy / "out.txt"
    with out.open("w") as file:
        arguments = command(toy, "week1/mean", "--impl", str(watched))
        run = subprocess.Popen(
            arguments, cwd=toy, env=environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        wait(lambda: "not divided" in said(out) or "never divide" in said(out) or "Next" in said(out), out)
        assert re.search(r"week1/mean  \d+ of 10 points", said(out)), said(out)
        (watched / "week1/mean.py").write_text(SOLUTION, "utf-8")
        wait(lambda: "10 of 10 points" in said(out), out)
        (watched / "week1/mean.py").write_text("def (", "utf-8")
        wait(lambda: "does not load" in said(out), out)
        (watched / "week1/mean.py").write_text(with_body("while True: pass"), "utf-8")
        time.sleep(1.0)  # it hangs, and the next save ends it
        (watched / "week1/mean.py").write_text(SOLUTION, "utf-8")
        wait(lambda: said(out).count("10 of 10 points") >= 2, out)
    finally:
        run.terminate()
        run.wait(20)


@needs_fork
def test_in_a_terminal_it_is_redrawn_and_keys_work(toy, watched):
    import pty

    ours, theirs = pty.openpty()
    arguments = command(toy, "week1/mean", "--impl", str(watched))
    run = subprocess.Popen(
        arguments, cwd=toy, env={**environment(), "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""

    def has(words: bytes) -> bool:
        nonlocal seen
        while select.select([ours], [], [], 0.05)[0]:
            try:
                seen += os.read(ours, 65536)
            except OSError:  # its end
                return words in seen
        return words in seen

    try:
        wait(lambda: has(b"of 10 points") and has(b"Next for"))
        os.write(ours, b"h")
        wait(lambda: has(b"handout") or has(b"mean"))
        os.write(ours, b"q")
        assert run.wait(20) == 0
        assert has(b"\x1b[?1049l"), "the terminal is put back"
    finally:
        run.kill()
        os.close(ours)


def said(out: Path) -> str:
    return out.read_text("utf-8")


def wait(until: Callable[[], bool], out: Path | None = None, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, said(out) if out else "nothing came"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["week1/men"], "no exercise matches week1/men"), (["--impl", "nowhere"], "--impl nowhere: no such tree")],
)
def test_what_is_not_there_is_one_line(toy, words, sentence):
    done = subprocess.run(command(toy, *words), cwd=toy, env=environment(), capture_output=True, text=True)
    assert done.returncode == 4 and sentence in done.stderr and done.stderr.count("\n") == 1

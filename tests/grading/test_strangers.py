"""A hand-in is a stranger's: nothing leads out of it, and its reports say whose and what it is."""

from __future__ import annotations

import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from grading.course.trees import LARGEST_SOURCE
from tests.grading.conftest import environment, write_hand_in
from tests.grading.test_students import SOLUTION, with_body

WRONG = with_body("return x")


# --- links, and files that are no source ---


@pytest.mark.parametrize("what", ["the file", "its folder", "through a link inside"])
def test_a_link_that_leaves_the_hand_in_is_refused_with_a_sentence(toy, run_pytest, tmp_path, what):
    hand_in = tmp_path / "hand-in"
    if what == "its folder":
        hand_in.mkdir()
        (hand_in / "week1").symlink_to(toy / "solutions/week1")
    else:
        (hand_in / "week1").mkdir(parents=True)
        target = toy / "solutions/week1/mean.py"
        if what == "through a link inside":
            (hand_in / "there").symlink_to(target.parent)
            target = hand_in / "there/mean.py"
        (hand_in / "week1/mean.py").symlink_to(target)
    run = run_pytest(toy, "exercises", "--impl", str(hand_in), "--no-isolate")
    assert run.status == 1 and run.grade["total"]["points"] == 0
    assert "week1/mean.py is a link that leads out of the hand-in" in run.grade["records"][0]["reason"]


def test_a_link_inside_the_hand_in_is_followed(toy, run_pytest, tmp_path):
    hand_in = write_hand_in(tmp_path / "hand-in", _mine=SOLUTION)
    (hand_in / "week1/mean.py").symlink_to(hand_in / "week1/_mine.py")
    assert run_pytest(toy, "exercises", "--impl", str(hand_in), "--no-isolate").status == 0


def test_a_helper_that_is_a_link_to_elsewhere_is_not_read(toy, run_pytest, tmp_path):
    hand_in = write_hand_in(tmp_path / "hand-in", mean="from ._help import weighted_mean, Centred\n")
    (hand_in / "week1/_help.py").symlink_to(toy / "solutions/week1/mean.py")
    run = run_pytest(toy, "exercises", "--impl", str(hand_in))
    assert run.grade["total"]["points"] == 0 or "none" in run.text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a named pipe")
def test_neither_a_pipe_nor_a_giant_holds_the_grader_up(toy, run_pytest, tmp_path):
    pipe = write_hand_in(tmp_path / "pipe", other="x = 1\n")
    os.mkfifo(pipe / "week1/mean.py")
    assert run_pytest(toy, "exercises", "--impl", str(pipe), "--no-isolate").count("not started") == 7
    giant = write_hand_in(tmp_path / "giant", mean="#" * (LARGEST_SOURCE + 1))
    run = run_pytest(toy, "exercises", "--impl", str(giant), "--no-isolate")
    assert "more than a source file's" in run.grade["records"][0]["reason"]


def test_what_is_graded_is_the_source_and_not_a_compiled_file_beside_it(toy, run_pytest, tmp_path):
    hand_in = write_hand_in(tmp_path / "hand-in", mean=WRONG)
    right = write_hand_in(tmp_path / "right", mean=SOLUTION) / "week1/mean.py"
    source = hand_in / "week1/mean.py"
    cached = Path(__import__("importlib.util").util.cache_from_source(str(source)))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(right), str(cached), dfile=str(source), doraise=True, invalidation_mode=mode)
    run = run_pytest(toy, "exercises", "--impl", str(hand_in), "--no-isolate")
    assert run.status == 1 and run.count("failed") == 7


def test_a_compiled_helper_is_refused_with_a_sentence(toy, run_pytest, tmp_path):
    hand_in = write_hand_in(tmp_path / "hand-in", mean="from ._help import weighted_mean, Centred\n")
    right = write_hand_in(tmp_path / "right", mean=SOLUTION) / "week1/mean.py"
    py_compile.compile(str(right), str(hand_in / "week1/_help.pyc"), doraise=True)
    run = run_pytest(toy, "exercises", "--impl", str(hand_in), "--no-isolate")
    assert run.status == 1 and run.grade["total"]["points"] == 0
    assert "is compiled: hand in its source" in run.grade["records"][0]["reason"]


def test_what_is_lent_is_not_graded(toy, run_pytest, tmp_path):
    hand_in = write_hand_in(tmp_path / "hand-in", other="x = 1\n")
    run = run_pytest(toy, "exercises", "--impl", str(hand_in), "--prerequisites", "solutions", "--no-isolate")
    assert run.count("not started") == 7 and run.grade["total"]["points"] == 0


# --- whose it is ---


def identity(run) -> dict[str, str]:
    return run.grade["identity"]


def test_the_reports_say_whose_and_what_it_is(toy, run_pytest, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTOR", "octocat")
    hand_in = str(write_hand_in(tmp_path / "kim", mean=SOLUTION))
    plain = run_pytest(toy, "exercises", "--impl", hand_in, "--no-isolate", "--grading-seed", "7")
    named = run_pytest(toy, "exercises", "--impl", hand_in, "--no-isolate", "--student", "Lee", "--strict")
    own = run_pytest(toy, "exercises", "--impl", "solutions")
    assert [identity(run)["student"] for run in (plain, named, own)] == ["kim", "Lee", "octocat"]
    assert identity(plain)["hand-in"] == identity(own)["hand-in"] != ""
    assert identity(plain)["tests"] == identity(named)["tests"]
    assert (identity(plain)["sandbox"], plain.grade["seed"]) == ("none", 7)
    assert identity(named)["options"] == "--strict"
    text = (named.folder / "summary.md").read_text("utf-8")
    assert "Lee" in text and identity(named)["hand-in"] in text
    Path(hand_in, "week1/mean.py").write_text(SOLUTION + "\n# changed\n", "utf-8")
    changed = run_pytest(toy, "exercises", "--impl", hand_in, "--no-isolate")
    assert identity(changed)["hand-in"] != identity(plain)["hand-in"]
    with (toy / "tests/week1/test_mean.py").open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    again = run_pytest(toy, "exercises", "--impl", hand_in, "--no-isolate")
    assert identity(again)["tests"] != identity(plain)["tests"]


def test_a_secret_seed_is_used_and_not_told(toy, run_pytest, monkeypatch):
    usual = run_pytest(toy, "exercises", "--impl", "solutions")
    monkeypatch.setenv("WHETSTONE_SEED", "918273645")
    run = run_pytest(toy, "exercises", "--impl", "solutions")
    assert run.status == 0 and run.grade["seed"] is None and "seed secret" in run.text
    reports = [path.read_text("utf-8") for path in run.folder.rglob("*") if path.is_file()]
    assert not any("918273645" in text for text in [run.text, *reports])
    assert usual.grade["seed"] == 0
    monkeypatch.setenv("WHETSTONE_SEED", "my secret")
    run = run_pytest(toy, "exercises", "--impl", "solutions")
    assert run.status == 4 and "WHETSTONE_SEED: give a natural number" in run.text and "my secret" not in run.text


# --- graded again ---


def regrade(toy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grading", "--root", str(toy), "regrade", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=toy)


def test_grading_again_says_what_changed_and_why(toy, run_pytest, tmp_path):
    hand_in = write_hand_in(tmp_path / "hand-in", mean=SOLUTION)
    first = run_pytest(toy, "exercises", "--impl", str(hand_in), "--no-isolate", "--grading-seed", "3")
    same = regrade(toy, str(first.folder), str(hand_in))
    assert same.returncode == 0, same.stderr
    assert same.stdout == (
        "10 of 10 points before, 10 of 10 points now\nEvery test has the same verdict and the same points.\n"
    )
    write_hand_in(hand_in, mean=WRONG)
    worse = regrade(toy, str(first.folder / "grade.json"), str(hand_in))
    assert worse.returncode == 1, worse.stderr
    assert "Why: the hand-in has changed." in worse.stdout
    assert "week1/mean::test_centred: passed with" in worse.stdout

    data = json.loads((first.folder / "grade.json").read_text("utf-8"))
    data["environment"]["torch"] = "1.0"
    data["identity"]["tests"] = "0"
    (first.folder / "grade.json").write_text(json.dumps(data), "utf-8")
    assert "the tests or the grader have changed; torch is" in regrade(toy, str(first.folder), str(hand_in)).stdout


def test_what_differs_without_a_cause_is_called_unsteady(toy, run_pytest, tmp_path):
    hand_in = write_hand_in(tmp_path / "hand-in", mean=SOLUTION)
    first = run_pytest(toy, "exercises", "--impl", str(hand_in), "--no-isolate")
    data = json.loads((first.folder / "grade.json").read_text("utf-8"))
    data["records"][0] |= {"verdict": "failed", "points": 0}
    (first.folder / "grade.json").write_text(json.dumps(data), "utf-8")
    assert "these tests are unsteady" in regrade(toy, str(first.folder), str(hand_in)).stdout


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "No such file"), ("{", "is not a grade"), ("[]", "is not a grade"), ('{"version": 9}', "is not a grade")],
)
def test_what_is_no_grade_is_one_line(toy, tmp_path, content, sentence):
    path = tmp_path / "grade.json"
    if content is not None:
        path.write_text(content)
    done = regrade(toy, str(path), "solutions")
    assert done.returncode == 4 and sentence in done.stderr and done.stderr.count("\n") == 1


def test_a_tree_that_is_not_there_is_one_line(toy, run_pytest):
    first = run_pytest(toy, "exercises", "--impl", "solutions")
    done = regrade(toy, str(first.folder), "nowhere")
    assert done.returncode == 4 and "nowhere: no such tree" in done.stderr

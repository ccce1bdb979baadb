"""The examples for GitHub and Gradescope work: each is run on the toy course as those services run it."""

from __future__ import annotations

import base64
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from grading.reports import read_grade
from tests.grading.conftest import ROOT, TOY, environment
from tests.grading.test_speed import SPEED_TEST

GITHUB = ROOT / "examples" / "github"
GRADESCOPE = ROOT / "examples" / "gradescope"
WORKFLOWS = sorted(GITHUB.glob("*.yml"))

COMMIT = ["-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "--message", "course"]
SOLUTION = (TOY / "solutions/week1/mean.py").read_text("utf-8")
ANSWERS = {
    "right": SOLUTION,
    "half right": SOLUTION.replace("raise ValueError", "raise KeyError"),
    "not started": (TOY / "exercises/week1/mean.py").read_text("utf-8"),
}


@pytest.fixture
def course(toy: Path) -> Path:
    """The toy course with the grader and the examples in it, set up with the Python that runs this test."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy2(ROOT / name, toy)
    for name in ("examples", "grading"):
        shutil.copytree(ROOT / name, toy / name, ignore=shutil.ignore_patterns("__pycache__"))
    set_up(toy)
    return toy


def set_up(root: Path) -> None:
    """Create what `make setup` would create, so that it has nothing left to do."""
    write(root / ".venv/bin/python", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (root / ".venv/bin/python").chmod(0o755)
    write(root / ".venv/ready", "")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def shell(**more: str) -> dict[str, str]:
    """The environment of a fresh shell, in which `make setup` fails at once if it has anything to do."""
    return environment() | {"MAKEFLAGS": "PYTHON=no-real-set-up"} | more


# --- GitHub ---


@dataclass
class Job:
    """The outcome of a workflow's only job."""

    failed: bool = False
    summary: str = ""
    log: str = ""
    outputs: dict[str, str] = field(default_factory=dict)  # by the expression that names them: steps.ID.outputs.NAME


def load(workflow: Path) -> dict[str, Any]:
    return yaml.safe_load(workflow.read_text("utf-8"))


def job_of(workflow: Path) -> dict[str, Any]:
    (job,) = load(workflow)["jobs"].values()
    return job


def run_job(workflow: Path, root: Path, event: str = "push", **more: str) -> Job:
    """Run the `run:` steps as GitHub's runner does: with `bash -e`, and after a failure only those marked `always()`.

    `event`: the GitHub event. `more`: environment variables.
    """
    job = Job()
    summary, output = root.parent / "summary", root.parent / "output"
    summary.touch()
    for step in job_of(workflow)["steps"]:
        always, _, only = step.get("if", "").partition(" && ")
        if "run" not in step or (job.failed and always != "always()"):
            continue
        if only not in ("", f"github.event_name == '{event}'") or step["run"].startswith("sudo "):
            continue  # what needs root is left to GitHub
        output.write_text("")
        ran = subprocess.run(
            ["bash", "-e", "-c", step["run"]],
            cwd=root,
            env=shell(GITHUB_STEP_SUMMARY=str(summary), GITHUB_OUTPUT=str(output), **more),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        job.failed |= ran.returncode != 0
        job.log += ran.stdout
        for line in output.read_text().splitlines():
            name, _, value = line.partition("=")
            job.outputs[f"steps.{step['id']}.outputs.{name}"] = value
    job.summary = summary.read_text()
    return job


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_follow_githubs_schema(workflow: Path) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    checked = subprocess.run([*check, str(workflow)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_a_major_version(workflow: Path) -> None:
    used = [step["uses"] for step in job_of(workflow)["steps"] if "uses" in step]
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@v\d+", action)] == []


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_workflow_fails_while_points_are_missing(course: Path, answer: str) -> None:
    write(course / "exercises/week1/mean.py", ANSWERS[answer])
    job = run_job(GITHUB / "grade.yml", course)
    assert job.failed == (answer != "right"), job.log
    assert job.summary == (course / "report/summary.md").read_text("utf-8") != ""
    (kept,) = [step for step in job_of(GITHUB / "grade.yml")["steps"] if "upload-artifact" in step.get("uses", "")]
    assert kept["if"] == "always()"
    report = course / kept["with"]["path"]
    assert {"grade.json", "index.html", "junit.xml"} <= {path.name for path in report.iterdir()}


def test_the_workflow_says_so_when_nothing_was_graded(course: Path) -> None:
    shutil.rmtree(course / ".venv")
    job = run_job(GITHUB / "grade.yml", course)
    assert job.failed
    assert "Nothing was graded" in job.summary


def test_the_benchmarks_are_kept_and_judge_a_pull_request(course: Path, tmp_path: Path) -> None:
    tests = course / "tests/week1/test_mean.py"
    tests.write_text(tests.read_text("utf-8") + SPEED_TEST.replace('("nobody", "solutions")', '"solutions"'), "utf-8")
    (course / "benchmarks").mkdir()
    write(course / "benchmarks/README.md", "Saved runs.")
    remote, comments, gh = tmp_path / "remote.git", tmp_path / "comments", tmp_path / "bin/gh"
    write(gh, f'#!/bin/sh\ntest "$3" = 7 && cat comparison.md >> {comments}\n')
    gh.chmod(0o755)
    for command in (
        ["init", "--bare", str(remote)],
        ["init"],
        ["add", "."],
        COMMIT,
        ["remote", "add", "origin", str(remote)],
    ):
        subprocess.run(["git", *command], cwd=course, check=True, capture_output=True)

    def happens(event: str) -> Job:
        subprocess.run(["git", "worktree", "remove", "--force", "history"], cwd=course, capture_output=True)
        subprocess.run(["git", "clean", "--force", "-d", "benchmarks"], cwd=course, check=True, capture_output=True)
        path = f"{gh.parent}:{os.environ['PATH']}"
        return run_job(GITHUB / "benchmarks.yml", course, event, PATH=path, NUMBER="7", GITHUB_SHA="abc")

    def kept() -> list[str]:
        listed = ["git", "ls-tree", "-r", "--name-only", "benchmarks"]
        return subprocess.run(listed, cwd=remote, check=True, capture_output=True, text=True).stdout.split()

    first = happens("push")
    assert not first.failed and "1 saved run, too few to compare" in first.summary, first.log
    assert sum(name.endswith(".json") for name in kept()) == 1 and any("history.svg" in name for name in kept())
    solution = course / "solutions/week1/mean.py"
    slow = SOLUTION.replace(
        "    if weights is None:", "    for _ in range(9):\n        x = x + 0\n    if weights is None:", 1
    )
    solution.write_text(slow, "utf-8")
    second = happens("pull_request")
    assert second.failed and "| more |" in comments.read_text("utf-8"), second.log
    assert sum(name.endswith(".json") for name in kept()) == 1


def test_classrooms_reporter_recognises_the_workflow() -> None:
    workflow = load(GITHUB / "classroom.yml")
    assert workflow["name"] == "Autograding Tests"
    assert list(workflow["jobs"]) == ["run-autograding-tests"]


@pytest.mark.parametrize("answer", ["half right", "not started"])
def test_classrooms_reporter_gets_the_points(course: Path, answer: str) -> None:
    write(course / "exercises/week1/mean.py", ANSWERS[answer])
    job = run_job(GITHUB / "classroom.yml", course)
    assert not job.failed, job.log
    reporter = job_of(GITHUB / "classroom.yml")["steps"][-1]
    (runner,) = reporter["with"]["runners"].split(",")
    expression = reporter["env"][f"{runner.upper()}_RESULTS"]
    results = json.loads(base64.b64decode(job.outputs[expression.strip("${} ")]))
    grade = read_grade(course / "report/grade.json")
    assert results["max_score"] == grade.max_points
    assert sum(test["score"] for test in results["tests"]) == grade.points < grade.max_points
    assert job.summary


# --- Gradescope ---


@pytest.fixture
def autograder(course: Path, tmp_path: Path) -> Path:
    """The folder that Gradescope unpacks from the archive that the README's command creates."""
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "x"]):
        subprocess.run([*git, *command], cwd=course, check=True, env=shell())
    (command,) = re.findall(r"```sh\n(.*?)```", (GRADESCOPE / "README.md").read_text("utf-8"), re.DOTALL)
    subprocess.run(["bash", "-e", "-c", command], cwd=course, check=True, env=shell())
    folder = tmp_path / "autograder"
    with zipfile.ZipFile(course / "autograder.zip") as archive:
        archive.extractall(folder / "source")
    shutil.rmtree(course)
    shutil.copyfile(folder / "source/run_autograder", folder / "run_autograder")
    (folder / "run_autograder").chmod(0o755)
    (folder / "submission").mkdir()
    (folder / "results").mkdir()
    set_up(folder / "source/course")
    return folder


def run_autograder(folder: Path) -> dict[str, Any]:
    """What Gradescope reads after a submission."""
    command, env = [str(folder / "run_autograder")], shell(AUTOGRADER=str(folder))
    ran = subprocess.run(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert ran.returncode == 0, ran.stdout
    return json.loads((folder / "results/results.json").read_text("utf-8"))


def gathered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The tree that run_autograder builds from a submission: each file's text by its path."""
    monkeypatch.setenv("AUTOGRADER", str(folder))
    tree = folder / "tree"
    runpy.run_path(str(folder / "run_autograder"))["gather"](tree)
    return {path.relative_to(tree).as_posix(): path.read_text() for path in tree.rglob("*.py")}


def test_gradescope_gets_the_points(autograder: Path) -> None:
    write(autograder / "submission/mean.py", ANSWERS["half right"])
    results = run_autograder(autograder)
    grade = read_grade(autograder / "source/course/report/grade.json")
    assert results["score"] == grade.points
    assert 0 < grade.points < grade.max_points == sum(test["max_score"] for test in results["tests"])


def test_gradescope_grades_a_class_with_its_secret_seed(autograder: Path) -> None:
    """The archive's command draws it once, and the practice seed is used where there is none."""
    assert (autograder / "source/seed").read_text("utf-8").strip().isdecimal()
    write(autograder / "submission/mean.py", ANSWERS["right"])
    run_autograder(autograder)
    assert read_grade(autograder / "source/course/report/grade.json").seed is None
    (autograder / "source/seed").unlink()
    run_autograder(autograder)
    assert read_grade(autograder / "source/course/report/grade.json").seed == 0


@pytest.mark.parametrize("seed", ["", "20260302"])
def test_the_workflow_takes_its_seed_from_a_secret(course: Path, seed: str) -> None:
    """A fork has no secrets, and is graded with the practice seed."""
    write(course / "exercises/week1/mean.py", ANSWERS["half right"])
    run_job(GITHUB / "grade.yml", course, WHETSTONE_SEED=seed)
    assert read_grade(course / "report/grade.json").seed == (None if seed else 0)


@pytest.mark.parametrize("place", ["mean.py", "week1/mean.py", "my work/week1/mean.py"])
def test_gradescope_takes_single_files_and_folders(
    autograder: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(autograder / "submission" / place, "mine")
    assert gathered(autograder, monkeypatch) == {"week1/mean.py": "mine"}


def test_gradescope_takes_a_file_that_an_exercise_needs(autograder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(autograder / "submission/week1/mean.py", "mine")
    write(autograder / "submission/week1/helper.py", "mine too")
    assert gathered(autograder, monkeypatch) == {"week1/mean.py": "mine", "week1/helper.py": "mine too"}


def test_gradescope_takes_the_exercises_of_a_repository(autograder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tree in ("exercises", "solutions", "tests/libraries/torch", ".venv/lib/exercises"):
        write(autograder / f"submission/repository/{tree}/week1/mean.py", tree)
    assert gathered(autograder, monkeypatch) == {"week1/mean.py": "exercises"}


def test_gradescope_forgets_the_submission_before(autograder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(autograder / "submission/mean.py", "mine")
    assert gathered(autograder, monkeypatch)
    (autograder / "submission/mean.py").unlink()
    assert gathered(autograder, monkeypatch) == {}


@pytest.mark.parametrize("link", ["mean.py", "week1", "exercises"])
def test_gradescope_follows_no_link_to_the_solutions(
    autograder: Path, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    solutions = autograder / "source/course/solutions"
    target = {"mean.py": solutions / "week1/mean.py", "week1": solutions / "week1", "exercises": solutions}[link]
    (autograder / "submission" / link).symlink_to(target)
    assert gathered(autograder, monkeypatch) == {}


def test_gradescope_tells_a_student_who_handed_in_no_exercise(autograder: Path) -> None:
    write(autograder / "submission/maen.py", SOLUTION)
    results = run_autograder(autograder)
    assert results["score"] == 0
    assert "None of your files is an exercise" in results["output"]


@pytest.mark.parametrize("missing", [".venv", "tests/week1", "grading/plugin.py"])
def test_gradescope_tells_when_grading_broke(autograder: Path, missing: str) -> None:
    write(autograder / "submission/mean.py", SOLUTION)
    path = autograder / "source/course" / missing
    path.rename(autograder / "gone")
    if path.suffix:  # the installed course, which is another one in this test, would stand in for a file that is gone
        path.write_text("raise ImportError\n")
    results = run_autograder(autograder)
    assert results["score"] == 0
    assert "not your fault" in results["output"]


def test_gradescopes_image_gets_the_newest_python_there_is(autograder: Path, tmp_path: Path) -> None:
    write(tmp_path / "bin/apt-get", '#!/bin/sh\ncase "$*" in *python3.1[34]*) exit 100 ;; esac\n')
    write(tmp_path / "bin/make", f'#!/bin/sh\necho "$@" > {shlex.quote(str(tmp_path / "made"))}\n')
    for program in (tmp_path / "bin").iterdir():
        program.chmod(0o755)
    env = shell(AUTOGRADER=str(autograder), PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    subprocess.run(["bash", str(autograder / "source/setup.sh")], check=True, env=env)
    assert (tmp_path / "made").read_text() == f"-C {autograder}/source/course setup PYTHON=python3.12\n"

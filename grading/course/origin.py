"""Where code comes from: the course's version, and the commits of the course and of a hand-in."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path

from grading.course.layout import Course
from grading.course.trees import Tree, needed


def version_of(course: Course) -> str:
    """The course's version; empty if it has none."""
    try:
        return str(tomllib.loads((course.root / "pyproject.toml").read_text("utf-8"))["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return ""


@functools.cache
def repository(folder: Path) -> tuple[str, str]:
    """The root of the folder's repository and the commit that is checked out there; empty if it is in none.

    Only these are asked for: they run nothing that a hand-in's own Git configuration may name.
    """
    command = ["git", "-C", str(folder), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "", ""
    lines = done.stdout.split("\n")
    return (lines[0], lines[1]) if done.returncode == 0 and len(lines) > 1 else ("", "")


def content(course: Course, tree: Tree) -> dict[str, str]:
    """Short hashes of what was graded and of what grades it: a changed one explains a changed grade."""
    graded = (path for name in course.exercises for path in needed(tree, name))
    tests = (*course.root.glob("tests/week*/*.py"), *course.root.glob("tests/oracles/**/*.py"))
    grader = Path(__file__).parents[1]
    return {
        "hand-in": _hash(graded, tree.roots),
        "tests": _hash((*tests, *grader.rglob("*.py")), (course.root, grader.parent)),
    }


def _hash(files: Iterable[Path], roots: Iterable[Path]) -> str:
    """Of the files' contents and of their paths below one of the roots."""
    total, roots = hashlib.sha256(), tuple(roots)
    for path in sorted(set(files)):
        name = next((path.relative_to(root).as_posix() for root in roots if path.is_relative_to(root)), path.name)
        total.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def who(tree: Tree | None, told: str | None) -> str:
    """Whose work is graded: as told, or the name of the hand-in's folder, or the account that a CI system names."""
    if told:
        return told
    if tree is not None and tree.stranger:
        return tree.roots[0].name
    return os.environ.get("GITHUB_ACTOR") or os.environ.get("GITLAB_USER_LOGIN") or ""


def origin(course: Course, graded: Path | None) -> dict[str, str]:
    """What identifies the code of a run; what is not known is left out. `graded`: the folder of the hand-in."""
    home, course_commit = repository(course.root)
    other, commit = repository(graded) if graded is not None else ("", "")
    found = {
        "course version": version_of(course),
        "course commit": course_commit,
        "commit": commit if other != home else "",  # of a hand-in in a repository of its own
    }
    return {name: value for name, value in found.items() if value}

"""Where code comes from: the course's version, and the commits of the course and of a hand-in."""

from __future__ import annotations

import functools
import subprocess
import tomllib
from pathlib import Path

from grading.course.layout import Course


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

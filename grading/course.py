"""Where things lie in a course: the one place that knows the layout of the repository."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Course:
    """A folder with `exercises/`, `solutions/` and `tests/`.

    An exercise is named by its path in a tree without the suffix: `week1/self_attention`.
    """

    root: Path

    @property
    def exercises_root(self) -> Path:
        return self.root / "exercises"

    @property
    def solutions_root(self) -> Path:
        return self.root / "solutions"

    @property
    def libraries_root(self) -> Path:
        return self.root / "tests" / "libraries"

    @property
    def private_roots(self) -> tuple[Path, ...]:
        """What a submission that runs in another process may not read."""
        return (self.solutions_root, self.root / "tests")

    @cached_property
    def exercises(self) -> tuple[str, ...]:
        """Every exercise that has graded tests, in the order of the course (see `order`)."""
        names = [
            f"{path.parent.name}/{path.stem.removeprefix('test_')}" for path in self.root.glob("tests/week*/test_*.py")
        ]
        return tuple(sorted(names, key=self.order))

    def order(self, exercise: str) -> tuple[str, int, str]:
        """Weeks first; inside a week as the README of its exercises lists them, then by name."""
        week, _, name = exercise.partition("/")
        listing = self.exercises_root / week / "README.md"
        position = listing.read_text("utf-8").find(f"({name}.md)") if listing.is_file() else -1
        return week, position if position >= 0 else 1_000_000, name

    def stub(self, exercise: str) -> Path:
        return self.exercises_root / f"{exercise}.py"

    def solution(self, exercise: str) -> Path:
        return self.solutions_root / f"{exercise}.py"

    def handout(self, exercise: str, language: str = "") -> Path:
        return self.exercises_root / f"{exercise}{language and '.' + language}.md"

    def tests(self, exercise: str) -> Path:
        week, _, name = exercise.partition("/")
        return self.root / "tests" / week / f"test_{name}.py"

    def mistakes(self, exercise: str) -> Path:
        return self.root / "tests" / "mistakes" / f"{exercise}.toml"

    def exercise_at(self, path: Path) -> str | None:
        """The exercise that a stub's or a graded test file's path belongs to, whether or not that file exists."""
        try:
            parts = path.relative_to(self.root).with_suffix("").parts
        except ValueError:
            return None
        if len(parts) != 3 or not parts[1].startswith("week") or path.suffix != ".py":
            return None
        top, week, name = parts
        if top == "exercises":
            return f"{week}/{name}"
        if top == "tests" and name.startswith("test_"):
            return f"{week}/{name.removeprefix('test_')}"
        return None

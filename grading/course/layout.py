"""The layout of a course: the only module that knows the folders and files of the repository."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGES = ("grading", "tests", "solutions", "exercises")  # at the top level; exercises must not import them
GRADED_FILES = "exercises/week*/*.py"  # what pytest collects besides ordinary test files
_WEEK = "week*"


def exercise_file(root: Path, exercise: str) -> Path:
    """The file of an exercise in the tree at `root`."""
    return root / f"{exercise}.py"


def exercise_files(root: Path) -> Iterator[Path]:
    """The files of all exercises in the tree at `root`; files with a leading underscore are helpers."""
    yield from sorted(root.glob(f"{_WEEK}/[!_]*.py"))


def exercise_of(path: Path, root: Path) -> str | None:
    """The exercise in a file of the tree at `root`; None for a file outside the tree."""
    return path.relative_to(root).with_suffix("").as_posix() if path.is_relative_to(root) else None


def tests_path(exercise: str) -> str:
    """The graded tests of an exercise, relative to the course."""
    week, _, name = exercise.partition("/")
    return f"tests/{week}/test_{name}.py"


@dataclass(frozen=True)
class Course:
    """A folder with `exercises/`, `solutions/` and `tests/`.

    An exercise is identified by its path in a tree, without the suffix: `week1/self_attention`.
    """

    root: Path

    @classmethod
    def around(cls, folder: Path) -> Course | None:
        """The course that a folder belongs to: itself, or the nearest folder above that is one."""
        courses = (cls(each) for each in (folder, *folder.parents))
        return next((course for course in courses if course.exists), None)

    @property
    def exists(self) -> bool:
        return self.exercises_root.is_dir() and any(self.root.glob(f"tests/{_WEEK}"))

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
        """The folders that an isolated submission must not read."""
        return (self.solutions_root, self.root / "tests")

    @property
    def material(self) -> tuple[Path, ...]:
        """The folders of data that exercises work on."""
        return tuple(path for path in sorted(self.exercises_root.glob(f"{_WEEK}/*")) if path.is_dir())

    @cached_property
    def exercises(self) -> tuple[str, ...]:
        """Every exercise that has graded tests, in the order of the course (see `order`)."""
        paths = self.root.glob(f"tests/{_WEEK}/test_*.py")
        names = [f"{path.parent.name}/{path.stem.removeprefix('test_')}" for path in paths]
        return tuple(sorted(names, key=self.order))

    def order(self, exercise: str) -> tuple[str, int, str]:
        """A sort key: by week, then as the week's README lists its exercises, then by name."""
        week, _, name = exercise.partition("/")
        listing = self.exercises_root / week / "README.md"
        position = listing.read_text("utf-8").find(f"({name}.md)") if listing.is_file() else -1
        return week, position if position >= 0 else 1_000_000, name

    def stub(self, exercise: str) -> Path:
        return exercise_file(self.exercises_root, exercise)

    def solution(self, exercise: str) -> Path:
        return exercise_file(self.solutions_root, exercise)

    def handout(self, exercise: str, language: str = "") -> Path:
        return self.exercises_root / f"{exercise}{language and '.' + language}.md"

    def tests(self, exercise: str) -> Path:
        return self.root / tests_path(exercise)

    def tests_module(self, exercise: str) -> str:
        """The name under which the graded tests are imported."""
        return tests_path(exercise).removesuffix(".py").replace("/", ".")

    def mistakes(self, exercise: str) -> Path:
        return self.root / "tests" / "mistakes" / f"{exercise}.toml"

    def environment(self, library: str) -> Path:
        """The interpreter of a library that has its own environment."""
        return self.root / ".venvs" / library / "bin" / "python"

    @property
    def conformance_page(self) -> Path:
        """The page with the table of the libraries' points."""
        return self.root / "docs" / "conformance.md"

    def kept_runs(self, machine: str = "*", name: str = "*") -> list[Path]:
        """The saved runs of the performance tests: benchmarks/MACHINE/…/NAME.json."""
        return sorted((self.root / "benchmarks").glob(f"{machine}/*/{name}.json"))

    def runs_of(self, machine: str) -> Path:
        """The folder of the runs on one kind of machine."""
        return self.root / "benchmarks" / machine

    def machines(self) -> list[Path]:
        """The folder of each kind of machine that has saved runs."""
        return sorted({path.parents[1] for path in self.kept_runs()})

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

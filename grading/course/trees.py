"""Implementation trees: directories with the same paths inside, all graded by the same tests.

`exercises/`, `solutions/`, a hand-in, a library under `tests/libraries/`, a known mistake: only the files differ.
"""

from __future__ import annotations

import ast
import atexit
import difflib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from grading.course.layout import PACKAGES, Course, exercise_file, exercise_files, exercise_of
from grading.course.source import forbidden_imports, syntax_problem

LARGEST_SOURCE = 2_000_000  # bytes


class TreeError(Exception):
    """A tree that does not exist or holds nothing to grade; the message is one sentence for the user."""


class LoadError(Exception):
    """A file of a tree that cannot be imported; the message is one line for the student."""


@dataclass(frozen=True)
class Tree:
    """A directory of implementations.

    `roots` are searched in order, file by file: a known mistake is one changed file on top of the solutions.
    """

    name: str
    roots: tuple[Path, ...]
    library: bool = False  # what a library lacks is "not offered"; what a hand-in lacks is "not started"
    python: Path | None = None  # the interpreter of a library that needs its own environment
    stranger: bool = False  # a hand-in: no link is followed out of it

    def file(self, exercise: str) -> Path | None:
        """The file of an exercise, or None if the tree has none that is its own."""
        for root in self.roots:
            path = exercise_file(root, exercise)
            if path.is_file() and not self.leaves(root, path):
                return path
        return None

    def refused(self, exercise: str) -> str:
        """Why the file that a hand-in has for an exercise is not read; empty if it is, or if there is none."""
        paths = ((root, exercise_file(root, exercise)) for root in self.roots)
        return next((why for root, path in paths if path.is_file() and (why := self.leaves(root, path))), "")

    def leaves(self, root: Path, path: Path) -> str:
        """Why a file of a hand-in is not read: it leads out of it, or is too large; empty if it is read."""
        if not self.stranger:
            return ""
        name = path.relative_to(root)
        if not path.resolve().is_relative_to(root.resolve()):
            return f"{name} is a link that leads out of the hand-in: put the file itself there"
        if path.stat().st_size > LARGEST_SOURCE:
            return f"{name} has {path.stat().st_size:,} bytes, more than a source file's {LARGEST_SOURCE:,}"
        return ""

    def source(self, exercise: str) -> str:
        """The text of an exercise's file, empty where there is none."""
        path = self.file(exercise)
        return path.read_text("utf-8", errors="replace") if path is not None else ""

    def exercise_of(self, filename: str) -> str | None:
        """The exercise that a file of this tree holds, or None for a file from elsewhere."""
        found = (exercise_of(Path(filename), root) for root in self.roots)
        return next((exercise for exercise in found if exercise), None)

    @cached_property
    def package(self) -> str:
        """The private package name under which the tree's modules are imported."""
        digest = hashlib.sha256("\n".join(map(str, self.roots)).encode()).hexdigest()[:12]
        return f"{_PACKAGES}{digest}"

    def load(self, exercise: str) -> types.ModuleType:
        """Import the exercise's module, once per process; its relative imports stay inside the tree."""
        name = f"{self.package}.{exercise.replace('/', '.')}"
        if name in sys.modules:
            return sys.modules[name]
        path = self.file(exercise)
        if path is None:
            raise FileNotFoundError(f"{self.name} has no {exercise}.py")
        source = self.source(exercise)
        if problem := syntax_problem(source, f"{exercise}.py"):
            raise LoadError(problem)
        if names := forbidden_imports(source, PACKAGES):
            raise LoadError(
                f"{exercise}.py imports {names[0]}: an exercise may import only files of its own tree "
                "(from .other_exercise import name) and installed packages"
            )
        if self.package not in sys.modules:
            package = types.ModuleType(self.package)
            package.__path__ = [str(root) for root in self.roots]
            sys.modules[self.package] = package
            _strangers.update({self.package} if self.stranger else ())
        importlib.invalidate_caches()
        return importlib.import_module(name)

    def unload(self) -> None:
        """Forget the tree's modules, so that hundreds of trees can pass through one process."""
        for name in [name for name in sys.modules if name == self.package or name.startswith(self.package + ".")]:
            del sys.modules[name]

    def overlaid(self, name: str, exercise: str, source: str) -> Tree:
        """This tree with one file replaced, until the process ends."""
        folder = Path(tempfile.mkdtemp(dir=_scratch()))
        path = exercise_file(folder, exercise)
        path.parent.mkdir(parents=True)
        path.write_text(source, "utf-8")
        return Tree(name, (folder, *self.roots))

    def lent(self, exercise: str, lender: Tree) -> Tree:
        """This tree's file of one exercise over copies of the lender's files that it builds on, and of no others."""
        path = self.file(exercise)
        if path is None:
            return self  # there is nothing to grade
        over = lender.overlaid(self.name, exercise, path.read_text("utf-8", "replace"))
        folder, copies = over.roots[0], Path(tempfile.mkdtemp(dir=_scratch()))
        for file in needed(over, exercise):
            for root in lender.roots:
                if file.is_relative_to(root):
                    copy = copies / file.relative_to(root)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(file.read_bytes())
        return Tree(self.name, (folder, copies))


def needed(tree: Tree, exercise: str) -> list[Path]:
    """The files of an exercise: its own, and those that it imports from its tree, directly or through others."""
    found: list[Path] = []
    wanted = [tuple(exercise.split("/"))]
    while wanted:
        path = _file(tree, wanted.pop())
        if path is not None and path not in found:
            found.append(path)
            wanted += _imports(tree, path)
    return found


def _file(tree: Tree, module: tuple[str, ...]) -> Path | None:
    for root in tree.roots if module else ():
        for path in (root.joinpath(*module).with_suffix(".py"), root.joinpath(*module, "__init__.py")):
            if path.is_file() and not tree.leaves(root, path):
                return path
    return None


def _imports(tree: Tree, path: Path) -> Iterator[tuple[str, ...]]:
    """The modules of the tree that a file may import: a name may be a module or something in one."""
    root = next(root for root in tree.roots if path.is_relative_to(root))
    folder = path.relative_to(root).parent.parts
    try:
        statements = list(ast.walk(ast.parse(path.read_bytes())))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in statements:
        if isinstance(node, ast.ImportFrom) and 0 < node.level <= len(folder) + 1:
            module = (*folder[: len(folder) - node.level + 1], *filter(None, (node.module or "").split(".")))
            yield from (module[:length] for length in range(1, len(module) + 1))
            yield from ((*module, alias.name) for alias in node.names)


class _SourceOnly(importlib.abc.MetaPathFinder):
    """Finds a tree's modules by their source alone: compiled files beside them may hold anything else."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if not name.startswith(_PACKAGES) or "." not in name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _SourceLoader(spec.loader.name, spec.loader.path)
        elif spec is not None and spec.loader is not None:
            raise ImportError(f"{Path(spec.origin or name).name} is compiled: hand in its source")
        package = name.partition(".")[0]
        if spec is not None and spec.origin and package in _strangers:
            root = Path(next(iter(sys.modules[package].__path__)))
            if not Path(spec.origin).resolve().is_relative_to(root.resolve()):
                raise ImportError(f"{Path(spec.origin).name} is a link that leads out of the hand-in")
        return spec


class _SourceLoader(importlib.machinery.SourceFileLoader):
    def path_stats(self, path: Any) -> Any:
        raise OSError("without a date, no compiled file is looked for")


_PACKAGES = "whetstone_tree_"
_strangers: set[str] = set()  # the packages of hand-ins
sys.meta_path.insert(0, _SourceOnly())

_scratch_folder: tempfile.TemporaryDirectory[str] | None = None


def _scratch() -> str:
    """This process's folder for files on top of a tree."""
    global _scratch_folder
    if _scratch_folder is None:
        _scratch_folder = tempfile.TemporaryDirectory(prefix="whetstone-")
        atexit.register(clear_scratch)
    return _scratch_folder.name


def clear_scratch() -> None:
    """Remove the files that were put on top of trees."""
    global _scratch_folder
    if _scratch_folder is not None:
        _scratch_folder.cleanup()
        _scratch_folder = None


def is_own(course: Course, name: str) -> bool:
    """Whether `--impl NAME` means a tree of the course's own, and not the path of a hand-in."""
    return name in ("exercises", "solutions") or (name.isidentifier() and (course.libraries_root / name).is_dir())


def find_tree(course: Course, name: str, start: Path, option: str = "--impl") -> Tree:
    """The tree that `--impl NAME` means: `exercises`, `solutions`, a library, or a path (relative to `start`)."""
    if name in ("exercises", "solutions"):
        return Tree(name, (course.root / name,))
    library = course.libraries_root / name
    if name.isidentifier() and library.is_dir():
        own = course.environment(name) if (library / "requirements.txt").is_file() else None
        return Tree(name, (library,), library=True, python=own)
    path = (start / name).resolve()
    if not path.exists():
        known = known_trees(course)
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(known)}, or give a path."
        raise TreeError(f"{option} {name}: no such tree; {hint}")
    if path.is_file():
        raise TreeError(f"{option} {name}: this is a file; give the directory that holds week1/, week2/ …")
    if not any(exercise_files(path)):
        if any(exercise_files(path / "exercises")):
            raise TreeError(f"{option} {name}: this is a whole course; give its exercises: {option} {name}/exercises")
        raise TreeError(f"{option} {name}: no exercises there; a tree has them at weekN/NAME.py.")
    return Tree(name, (path,), stranger=True)


def known_trees(course: Course) -> Sequence[str]:
    libraries = sorted(path.name for path in course.libraries_root.glob("*") if any(exercise_files(path)))
    return ["exercises", "solutions", *libraries]

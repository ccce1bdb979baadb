"""The solution with known mistakes in it, cheap enough to try hundreds.

A variant shares with the solution whatever its mistakes do not change: the other files of the tree, and the compiled
top-level statements of its own file. Only the statements that a change touches are compiled.
"""

from __future__ import annotations
import __future__

import ast
import functools
import re
import shutil
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from grading.course.layout import Course
from grading.course.source import bound_names
from grading.course.trees import Tree, find_tree
from grading.data.request import Request
from grading.mistakes.bank import Mistake, MistakeError

# What compiles functions keeps its result with their code: variants that shared code would get each other's.
_COMPILING = re.compile(r"\b(compile|jit|triton|dynamo)\b")
_FLAGS = functools.reduce(
    lambda flags, name: flags | getattr(__future__, name).compiler_flag, __future__.all_feature_names, 0
)


@dataclass(frozen=True)
class Edit:
    """The text from `start` to `end` of the solution becomes `new`."""

    start: int
    end: int
    new: str


class Source:
    """One file of the solutions, divided into pieces that each begin with a top-level statement."""

    def __init__(self, filename: str, text: str) -> None:
        self.filename, self.text = filename, text
        tree = ast.parse(text)
        self.flags = compile(tree, filename, "exec", dont_inherit=True).co_flags & _FLAGS
        lines = [0]
        for line in text.splitlines(keepends=True):
            lines.append(lines[-1] + len(line))
        firsts = [min([each.lineno, *(d.lineno for d in getattr(each, "decorator_list", []))]) for each in tree.body]
        starts = sorted({lines[first - 1] for first in firsts[1:]})  # two statements on one line are one piece
        self.bounds = list(pairwise([0, *starts, len(text)]))
        self._compiled: dict[int, types.CodeType] = {}
        self.defines = [self._names(tree, start, end, bound_names) for start, end in self.bounds]
        self.mentions = [self._names(tree, start, end, mentioned) for start, end in self.bounds]

    def _names(self, tree: ast.Module, start: int, end: int, names_of: Callable[[Any], Iterable[str]]) -> set[str]:
        first, last = self.text.count("\n", 0, start) + 1, self.text.count("\n", 0, end) + 1
        inside = (each for each in tree.body if first <= each.lineno < max(last, first + 1))
        return {name for each in inside for name in names_of(each)}

    def edits(self, mistakes: Sequence[Mistake]) -> list[Edit]:
        """The changes of these mistakes, in order. MistakeError if two touch the same text."""
        found = []
        for mistake in mistakes:
            for old, new in mistake.changes:
                if self.text.count(old) != 1:
                    raise MistakeError(f"{mistake.name} cannot be combined: its changes follow one another")
                start = self.text.index(old)
                found.append(Edit(start, start + len(old), new))
        found.sort(key=lambda edit: (edit.start, edit.end))
        if any(before.end > after.start for before, after in pairwise(found)):
            raise MistakeError(f"{' and '.join(mistake.name for mistake in mistakes)} change the same text")
        return found

    def touched(self, edits: Sequence[Edit]) -> list[int]:
        """The numbers of the pieces that these edits change."""
        return [
            number
            for number, (start, end) in enumerate(self.bounds)
            if any(edit.start < end and max(edit.end, edit.start + 1) > start for edit in edits)
        ]

    def changed(self, edits: Sequence[Edit], start: int = 0, end: int | None = None) -> str:
        """The text between two places, after the edits that lie there."""
        done, parts = start, []
        for edit in edits:
            if start <= edit.start and (end is None or edit.end <= end):
                parts += [self.text[done : edit.start], edit.new]
                done = edit.end
        return "".join([*parts, self.text[done:end]])

    def codes(self, edits: Sequence[Edit], filename: str) -> Iterator[types.CodeType]:
        """The compiled pieces after these edits, those that are touched as of the file `filename`."""
        touched, number, line = set(self.touched(edits)), 0, 0
        while number < len(self.bounds):
            start, end = self.bounds[number]
            if number not in touched:
                if number not in self._compiled:
                    self._compiled[number] = self._compile(self.text[start:end], start, self.filename)
                yield self._compiled[number]
                line += self.text.count("\n", start, end)
            else:
                while any(edit.start < end < edit.end for edit in edits):  # an edit that goes on in the next piece
                    number += 1
                    end = self.bounds[number][1]
                text = self.changed(edits, start, end)
                yield compile("\n" * line + text, filename, "exec", self.flags, dont_inherit=True)
                line += text.count("\n")
            number += 1

    def _compile(self, text: str, start: int, filename: str) -> types.CodeType:
        lines = self.text.count("\n", 0, start)
        return compile("\n" * lines + text, filename, "exec", self.flags, dont_inherit=True)


@dataclass(frozen=True)
class Variant(Tree):
    """A tree whose one changed file shares modules and code with the tree below it."""

    base: Tree | None = None
    file_changed: str = ""
    codes: tuple[types.CodeType, ...] = ()

    def load(self, exercise: str) -> types.ModuleType:
        if exercise != self.file_changed or self.base is None:
            return super().load(exercise)
        name = f"{self.package}.{exercise.replace('/', '.')}"
        if name in sys.modules:
            return sys.modules[name]
        below = self.base.load(exercise)
        module = types.ModuleType(name)
        module.__file__, module.__package__ = str(self.file(exercise)), below.__package__
        sys.modules[name] = module
        try:
            for code in self.codes:
                exec(code, vars(module))
        except BaseException:
            del sys.modules[name]
            raise
        return module


class Variants:
    """The solution of one exercise with any of its known mistakes."""

    def __init__(self, course: Course, exercise: str) -> None:
        self.course, self.exercise = course, exercise
        self.solution = find_tree(course, "solutions", course.root)
        path = course.solution(exercise)
        self.source = Source(str(path), path.read_text("utf-8"))

    def tree(self, mistakes: Sequence[Mistake]) -> Tree:
        """The solution with these mistakes. MistakeError if they do not fit it, or not together."""
        if not mistakes:
            return self.solution
        name = f"mistake {' and '.join(mistake.name for mistake in mistakes)}"
        if any(mistake.file != self.exercise for mistake in mistakes) or _COMPILING.search(self.source.text):
            return self._files(name, mistakes)
        if len(mistakes) == 1:
            mistakes[0].apply(self.source.text)  # MistakeError where it does not fit
        try:
            edits = self.source.edits(mistakes)
        except MistakeError:
            if len(mistakes) == 1:  # its changes follow one another
                return self._files(name, mistakes)
            raise
        tree = self.solution.overlaid(name, self.exercise, self.source.changed(edits))
        try:
            codes = tuple(self.source.codes(edits, str(tree.file(self.exercise))))
        except SyntaxError:  # a change that is complete only with its neighbours
            return tree
        return Variant(name, tree.roots, base=self.solution, file_changed=self.exercise, codes=codes)

    def _files(self, name: str, mistakes: Sequence[Mistake]) -> Tree:
        """Whole files over the solutions."""
        tree = self.solution
        for file in dict.fromkeys(mistake.file for mistake in mistakes):
            path = self.course.solution(file)
            text = path.read_text("utf-8")
            here = [mistake for mistake in mistakes if mistake.file == file]
            source = Source(str(path), text)
            changed = here[0].apply(text) if len(here) == 1 else source.changed(source.edits(here))
            tree = tree.overlaid(name, file, changed)
        return tree

    def drop(self, tree: Tree) -> None:
        """Forget a variant that explained nothing: hundreds pass through one process."""
        tree.unload()
        for root in tree.roots:
            if root not in self.solution.roots:
                shutil.rmtree(root, ignore_errors=True)

    def touched(self, mistake: Mistake) -> set[str] | None:
        """The top-level names that a mistake changes; None if it changes another file, or code outside of names."""
        if mistake.file != self.exercise:
            return None
        try:
            pieces = self.source.touched(self.source.edits([mistake]))
        except MistakeError:
            return None
        names = [self.source.defines[piece] for piece in pieces]
        return set().union(*names) if all(names) else None

    @functools.cached_property
    def _uses(self) -> dict[str, set[str]]:
        """What the definition of each top-level name mentions."""
        uses: dict[str, set[str]] = {}
        for defined, mentions in zip(self.source.defines, self.source.mentions, strict=True):
            for name in defined:
                uses.setdefault(name, set()).update(mentions)
        return uses

    @functools.cached_property
    def _always(self) -> set[str]:
        """What the statements mention that define nothing, such as a registration."""
        pairs = zip(self.source.defines, self.source.mentions, strict=True)
        return set().union(*(mentions for defined, mentions in pairs if not defined))

    def reached(self, request: Request) -> set[str]:
        """The top-level names that a request may come by: those that it names, those that these mention, and so on."""
        wanted = {request.name}
        if request.scenario is not None:
            wanted |= set(_identifiers(tuple(source for _, source in request.scenario.definitions)))
            wanted |= set(_texts((request.args, request.kwargs)))
        wanted |= self._always
        seen: set[str] = set()
        while wanted:
            name = wanted.pop()
            if name not in seen:
                seen.add(name)
                wanted |= self._uses.get(name, set()) & self._uses.keys()
        return seen


def mentioned(node: ast.AST) -> Iterator[str]:
    """The identifiers in a piece of code, also as attributes and in strings."""
    for each in ast.walk(node):
        match each:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                yield name


@functools.cache
def _identifiers(sources: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name for source in sources for name in mentioned(ast.parse(source)))


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            yield from _texts(list(value.values()))
        case list() | tuple():
            for each in value:
                yield from _texts(each)

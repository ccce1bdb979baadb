"""From a solution to the exercise that is handed out: the public face stays, the answer goes.

A stub keeps, in the source's own words,

- the module docstring and the comment block on the file's first line,
- imports, except `from module import name` where only code that goes uses the names; what a student imports from the
  future, from earlier exercises (relative imports) or as a module (`import torch`) always stays; what the solution
  imports from private modules of its tree (`from ._memory import Ledger`) always goes: they are not handed out,
- public constants, type aliases, class attributes and annotated fields, each with the docstring under it,
- public functions, methods and classes: decorators, signature, docstring. A body becomes `raise NotImplementedError`;
  one that is only `...` stays, for there is nothing to write (overloads, protocols, abstract methods),
- the `if`, `try` and `with` statements of a module or class around any of these,
- the comment lines directly above what stays, and the comment at the end of its line,
- everything between `# given` and `# end given` (see `grading.course.source`).

All else goes: bodies, what has a leading underscore, other statements and comments, `if __name__ == "__main__":`.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby, takewhile
from pathlib import Path

from grading.course.layout import Course, exercise_files
from grading.course.source import (
    FunctionNode,
    Region,
    SourceError,
    blocks,
    bound_names,
    definitions,
    is_declaration,
    is_docstring,
    is_filler,
    is_main_guard,
    is_public,
    normalise,
    parse,
    private_imports,
    regions,
)

_COLON = re.compile(r"(?:#.*|[^:#])*:")  # the end of a header, after the last of its expressions
_COMMENT = re.compile(r"[ \t]*#.*")


def stub(source: str, filename: str = "<source>") -> str:
    """The stub of a solution. A stub is its own stub.

    Raises SourceError if the source is not Python, a marker has no partner, or what stays uses a private name that
    goes or a private module.
    """
    return _Solution(source, filename).stub()


def write_stubs(course_root: Path) -> list[Path]:
    """Bring every `exercises/weekN/NAME.py` in step with `solutions/weekN/NAME.py`, overwriting whatever it holds.

    Returns the files that were written.
    """
    stubs = _stubs(Course(course_root))
    changed = [path for path, text in stubs.items() if _read(path) != text]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(stubs[path], "utf-8", newline="\n")
    return changed


def stale_stubs(course_root: Path) -> list[Path]:
    """The files under `exercises/` that are not what the solutions say: missing, different, or without a solution."""
    course = Course(course_root)
    stubs = _stubs(course)
    return sorted(
        path
        for path in stubs.keys() | set(exercise_files(course.exercises_root))
        if path not in stubs or _read(path) != stubs[path]
    )


def _stubs(course: Course) -> dict[Path, str]:
    """Path and text of every stub that the course should have."""
    root = course.solutions_root
    return {
        course.exercises_root / path.relative_to(root): stub(path.read_text("utf-8"), path.relative_to(root).as_posix())
        for path in exercise_files(root)
    }


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


class _Solution:
    """A parsed solution, and what it takes to cut a stub out of its text."""

    def __init__(self, source: str, filename: str) -> None:
        self.filename = filename
        self.tree = parse(source, filename)
        self.text = normalise(source)
        self.lines = self.text.split("\n")
        self.starts = [0, *accumulate(len(line) + 1 for line in self.lines)]  # where each line begins in the text
        self.regions = regions(source, self.tree, filename)
        self.unneeded: set[ast.stmt] = set()
        while more := self.imports_of_private_code() - self.unneeded:
            self.unneeded |= more

    def stub(self) -> str:
        heading = self.heading()
        text = self.block(self.tree.body, "", len(heading), "\n".join(heading))
        stub = text + "\n" if text else ""
        self.check_names(stub)
        return stub

    def heading(self) -> list[str]:
        """The comment lines with which the file begins, unless they belong to what follows."""
        heading = list(takewhile(lambda line: line.startswith("#"), self.lines))
        below = "".join(self.lines[len(heading) :][:1])
        given = any(region.first <= len(heading) for region in self.regions)
        return [] if below.strip() or given else heading

    # What stays and what goes

    def kept(self, block: Sequence[ast.stmt]) -> list[ast.stmt]:
        """The statements of a block that stay."""
        kept: list[ast.stmt] = []
        for above, statement in zip([None, *block], block, strict=False):
            if is_docstring(statement):
                stays = above is None or (above in kept and isinstance(above, ast.Assign | ast.AnnAssign))
            elif isinstance(statement, ast.Import | ast.ImportFrom):
                stays = statement not in self.unneeded and not private_imports(statement)
            elif inner := blocks(statement):
                stays = not is_main_guard(statement) and any(map(self.kept, inner))
            else:
                stays = any(map(is_public, bound_names(statement)))
            if stays or self.region(statement):
                kept.append(statement)
        return kept

    def gone(self, block: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
        """The statements that go, also from inside of classes and blocks that stay, but for the bodies of functions."""
        kept = self.kept(block)
        for statement in block:
            if statement not in kept:
                yield statement
            elif not self.region(statement):
                for inner in [statement.body] if isinstance(statement, ast.ClassDef) else blocks(statement):
                    yield from self.gone(inner)

    def imports_of_private_code(self) -> set[ast.stmt]:
        """The `from module import name` statements whose every name is used, and by nothing but code that goes.

        An import that nothing uses stays: in a stub that is the import of whatever the bodies need.
        """
        used = Counter(_names([self.tree]))
        used_by_gone = Counter(_names(self.gone(self.tree.body)))
        return {
            node
            for node in definitions(self.tree.body)
            if isinstance(node, ast.ImportFrom) and node.level == 0
            if all(used_by_gone[name] == used[name] > 0 for name in (each.asname or each.name for each in node.names))
        }

    def region(self, statement: ast.stmt) -> Region | None:
        return next((region for region in self.regions if statement in region), None)

    def check_names(self, stub: str) -> None:
        """Refuse a stub that needs what went."""
        tree = parse(stub, self.filename)
        gone = {
            name: node.lineno
            for node in definitions(self.gone(self.tree.body))
            for name in [*bound_names(node), *private_imports(node)]
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.stmt):
                for name in bound_names(node):
                    gone.pop(name, None)  # there is another one that stays
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id in gone:
                reason = f"the stub needs {node.id}, which is private; make it public or mark it as given"
                line = stub.split("\n")[node.lineno - 1]
                raise SourceError(reason, self.filename, gone[node.id], None, line)
            if isinstance(node, ast.stmt) and private_imports(node):
                reason = "the stub imports a private module, which is not handed out"
                raise SourceError(reason, self.filename, text=ast.unparse(node))

    # The text of what stays

    def block(self, block: Sequence[ast.stmt], indent: str, above: int, text: str = "") -> str:
        """The lines of a block that stay, put after `text`. What comes before the block ends on line `above`."""
        kept = self.kept(block)
        gap, cut, previous = 0, False, None
        for statement in block:
            region = self.region(statement)
            if region and region.last == above:
                continue  # already there, with the region's first statement
            first, last = (region.first, region.last) if region else (_first_line(statement), _last_line(statement))
            begin = first  # of the comment lines directly above
            while begin - 1 > above and self.lines[begin - 2].startswith(indent + "#"):
                begin -= 1
            gap = max(gap, self.blank_lines(above, begin))
            above = last
            if statement not in kept:
                cut = True
                continue
            if cut and not isinstance(previous, _SPACED) and not isinstance(statement, _SPACED):
                gap = min(gap, 1)  # the two blank lines were those around a function
            lines = self.lines[first - 1 : last] if region else [self.statement(statement, indent)]
            text += "\n" * (gap + 1) if text else ""
            text += "\n".join([*self.lines[begin - 1 : first - 1], *lines])
            gap, cut, previous = 0, False, statement
        return text

    def statement(self, statement: ast.stmt, indent: str) -> str:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return self.function(statement, indent)
            case ast.ClassDef():
                return self.class_(statement, indent)
            case ast.If() | ast.Try() | ast.With():
                return self.compound(statement, indent)
        return indent + self.segment(statement)

    def function(self, node: FunctionNode, indent: str) -> str:
        if is_declaration(node):
            return indent + self.segment(node)
        inner = self.indent_of(node.body, indent)
        docstring = [inner + self.segment(node.body[0])] if is_docstring(node.body[0]) else []
        return "\n".join([self.header(node), *docstring, inner + "raise NotImplementedError"])

    def class_(self, node: ast.ClassDef, indent: str) -> str:
        if all(map(is_filler, node.body)):
            return indent + self.segment(node)
        header = self.header(node)
        inner = self.indent_of(node.body, indent)
        above = _first_line(node) + header.count("\n")
        return header + "\n" + (self.block(node.body, inner, above) or inner + "pass")

    def compound(self, node: ast.stmt, indent: str) -> str:
        """An `if`, `try` or `with` statement. A block from which everything went holds `pass`."""
        lines: list[str] = []
        line = node.lineno
        for block in blocks(node):
            inner = self.indent_of(block, indent)
            clause = self.text[self.starts[line - 1] : self.position(_first_line(block[0]), block[0].col_offset)]
            lines += [each.rstrip() for each in clause.split("\n") if each.strip() and not _COMMENT.match(each)]
            body = self.block(block, inner, line) or inner + "pass"
            spaced = isinstance(next(iter(self.kept(block)), None), _SPACED) and not _COMMENT.match(body)
            lines += ["", body] if spaced else [body]  # a definition is set off from its clause
            line = _last_line(block[-1]) + 1
        return "\n".join(lines)

    def header(self, node: FunctionNode | ast.ClassDef) -> str:
        """Decorators and signature as far as the colon, and the comment at the end of its line."""
        parts = [*getattr(node, "bases", []), *getattr(node, "keywords", []), *getattr(node, "type_params", [])]
        if isinstance(node, FunctionNode):
            parts += [*ast.iter_child_nodes(node.args), *filter(None, [node.returns])]
        ends = [(node.lineno, node.col_offset), *((part.end_lineno, part.end_col_offset) for part in parts)]
        colon = _COLON.match(self.text, self.position(*max(ends)))
        assert colon is not None
        header = self.text[self.starts[_first_line(node) - 1] : colon.end()]
        return header + self.comment(colon.end())

    def segment(self, node: ast.stmt) -> str:
        """The statement with its decorators and the comment at the end of its last line, but not its first indent."""
        end = self.position(_last_line(node), node.end_col_offset or 0)
        return self.text[self.position(_first_line(node), node.col_offset) : end] + self.comment(end)

    def comment(self, position: int) -> str:
        comment = _COMMENT.match(self.text, position)
        return comment[0].rstrip() if comment else ""

    def indent_of(self, block: Sequence[ast.stmt], outer: str) -> str:
        """The indent of a block; four spaces more than outside where it begins on its header's line."""
        line = self.lines[_first_line(block[0]) - 1]
        indent = line[: len(line) - len(line.lstrip())]
        return indent if len(indent) == block[0].col_offset else outer + "    "

    def blank_lines(self, above: int, below: int) -> int:
        """The most blank lines in a row between two lines."""
        runs = groupby(self.lines[above : below - 1], key=lambda line: not line.strip())
        return max((len(list(run)) for blank, run in runs if blank), default=0)

    def position(self, line: int, column: int) -> int:
        """Where in the text a place of the tree is, whose columns are bytes of UTF-8."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())


_SPACED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)  # two blank lines around each


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Every name that code mentions, those of quoted annotations as well."""
    for node in (each for root in nodes for each in ast.walk(root)):
        if isinstance(node, ast.Name):
            yield node.id
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            for part in ast.walk(annotation) if annotation else ():
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield from re.findall(r"\w+", part.value)


def _first_line(node: ast.stmt) -> int:
    """Of the statement or its first decorator."""
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def _last_line(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno

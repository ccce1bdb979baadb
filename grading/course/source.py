"""What can be known about a Python file without importing it: its public names, its imports, what is not started.

Public means: no leading underscore, or two on each side. Code between the comment lines `# given` and `# end given` is
handed out as it is (after a colon the opening line may say more): `grading.author.stubs` copies it, and it does not
count as started.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef

_TYPE_ALIAS: Any = getattr(ast, "TypeAlias", ())  # `type X = …`, since Python 3.12
_MARKER = re.compile(r"([ \t]*)# (end )?given(?::.*)?")
_MESSAGE_LENGTH = 200


class SourceError(Exception):
    """A source file that cannot be read as Python; the message is one line that says where and why."""

    def __init__(self, reason: str, filename: str, line: int | None = None, column: int | None = None, text: str = ""):
        self.reason, self.filename, self.line, self.column, self.text = reason, filename, line, column, text.strip()
        where = filename
        if line is not None:
            where += f", line {line}"
        if column is not None:
            where += f", column {column}"
        message = " ".join(f"{where}: {reason}".split())
        if self.text:
            message += f": {' '.join(self.text.split())}"
        if len(message) > _MESSAGE_LENGTH:
            message = message[: _MESSAGE_LENGTH - 1] + "…"
        super().__init__(message)


@dataclass(frozen=True)
class Region:
    """Code that is handed out, with the lines of its two markers."""

    first: int
    last: int

    def __contains__(self, statement: ast.stmt) -> bool:
        return self.first < statement.lineno < self.last


def normalise(source: str) -> str:
    """The source as Python's own reader sees it: lines end in `\\n`, and there is no byte order mark."""
    return source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def parse(source: str, filename: str) -> ast.Module:
    """The syntax tree of the normalised source. Raises SourceError for what Python would not compile."""
    text = normalise(source)
    if "\0" in text:
        raise SourceError("holds a null byte: save it as UTF-8", filename, text[: text.index("\0")].count("\n") + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape such as "\d" is for the import to report
            tree = ast.parse(text)
            compile(text, filename, "exec", dont_inherit=True)  # finds more: a return outside of a function
    except SyntaxError as error:
        lines = text.split("\n")
        line = error.lineno or len(lines)
        raise SourceError(error.msg, filename, line, error.offset or None, "".join(lines[line - 1 : line])) from None
    except (MemoryError, RecursionError):
        raise SourceError("is nested too deeply", filename) from None
    except ValueError as error:  # lone surrogates, numbers with thousands of digits
        raise SourceError(str(error), filename) from None
    return tree


def syntax_problem(source: str, filename: str) -> str | None:
    """Why Python would not compile the file, in one line, or None."""
    try:
        parse(source, filename)
    except SourceError as error:
        return str(error)
    return None


def unstarted_names(source: str, filename: str = "<source>") -> frozenset[str]:
    """The public functions and classes in which every public function body still only raises NotImplementedError."""
    return frozenset(name for name, open_ in _progress(source, filename).items() if open_)


def unstarted(source: str, filename: str = "<source>") -> bool:
    """Whether the file has public functions or methods and every one of them still raises NotImplementedError.

    What a stub holds beside them starts nothing: private helpers, declarations without a body (`...`), classes without
    methods and given code. Code to be rewritten does: nobody can tell from the file whether it has been.
    """
    progress = _progress(source, filename)
    return bool(progress) and all(progress.values())


def forbidden_imports(source: str, packages: Collection[str], filename: str = "<source>") -> list[str]:
    """The modules that the file imports from these top-level packages, in the order of its lines."""
    imports = sorted(_imports(parse(source, filename)), key=lambda each: each.line)
    modules = [each.module for each in imports if each.level == 0 and each.module.partition(".")[0] in packages]
    return list(dict.fromkeys(modules))


def is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def is_filler(statement: ast.stmt) -> bool:
    """`pass` or `...`"""
    return isinstance(statement, ast.Pass) or _is_ellipsis(statement)


def is_declaration(function: FunctionNode) -> bool:
    """Whether the body is only `...`: an overload, a method of a protocol, an abstract method."""
    body = function.body[is_docstring(function.body[0]) :]
    return bool(body) and all(map(_is_ellipsis, body))


def is_main_guard(statement: ast.stmt) -> bool:
    """`if __name__ == "__main__":`"""
    match statement:
        case ast.If(test=ast.Compare(ast.Name("__name__"), [ast.Eq()], [ast.Constant("__main__")])):
            return True
    return False


def bound_names(statement: ast.stmt) -> list[str]:
    """The names that a definition or an assignment binds (`x.attribute = …` binds none)."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            pass
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            targets = [target]
        case _ if isinstance(statement, _TYPE_ALIAS):
            targets = [statement.name]
        case _:
            targets = []
    nodes = [node for target in targets for node in ast.walk(target)]
    return [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def private_imports(statement: ast.stmt) -> list[str]:
    """The names that a statement imports from a private module of its tree (`from ._memory import Ledger`)."""
    match statement:
        case ast.ImportFrom(level=level, module=module, names=aliases) if level:
            path = module.split(".") if module else [alias.name for alias in aliases]
            if not all(map(is_public, path)):
                return [alias.asname or alias.name for alias in aliases]
    return []


def blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The blocks of an `if`, `try` or `with` statement in the order of the source, `elif` as one of its own."""
    match statement:
        case ast.If(body=body, orelse=[ast.If(col_offset=column) as other]) if column == statement.col_offset:
            return [body, *blocks(other)]
        case ast.If(body=body, orelse=orelse):
            found = [body, orelse]
        case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=finalbody):
            found = [body, *(handler.body for handler in handlers), orelse, finalbody]
        case ast.With(body=body):
            found = [body]
        case _:
            found = []
    return [block for block in found if block]


def definitions(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or class that an import runs, those of `if`, `try` and `with` blocks one by one."""
    for statement in body:
        if is_main_guard(statement):
            continue
        inner = blocks(statement)
        for block in inner:
            yield from definitions(block)
        if not inner:
            yield statement


def regions(source: str, tree: ast.Module, filename: str) -> list[Region]:
    """The regions that markers enclose, outside of functions. Raises SourceError for a marker without its partner."""
    hidden: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode | ast.Constant):
            hidden.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    found: list[Region] = []
    opened: tuple[int, re.Match[str]] | None = None
    for line, text in enumerate(normalise(source).split("\n"), start=1):
        marker = None if line in hidden else _MARKER.fullmatch(text.rstrip())
        if marker is None:
            continue
        if not marker[2] and opened is None:
            opened = line, marker
        elif marker[2] and opened is not None and opened[1][1] == marker[1]:
            found.append(Region(opened[0], line))
            opened = None
        else:
            raise SourceError("this marker has no partner at its depth", filename, line, None, text)
    if opened is not None:
        raise SourceError("this marker has no partner at its depth", filename, opened[0], None, opened[1][0])
    return found


@dataclass(frozen=True)
class _Import:
    line: int
    level: int  # 0: absolute; n: relative, with n dots
    module: str


def _imports(tree: ast.Module) -> Iterator[_Import]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (_Import(node.lineno, 0, alias.name) for alias in names)
            case ast.ImportFrom(module=module, level=level):
                yield _Import(node.lineno, level, module or "")
            case ast.Call(func=ast.Name("import_module" | "__import__") | ast.Attribute(attr="import_module")):
                named = [keyword.value for keyword in node.keywords if keyword.arg == "name"]
                match [*node.args, *named]:
                    case [ast.Constant(str(text)), *_]:
                        module = text.lstrip(".")
                        yield _Import(node.lineno, len(text) - len(module), module)


def _progress(source: str, filename: str) -> dict[str, bool]:
    """For every public name that is the student's to write, whether all its code still raises NotImplementedError."""
    tree = parse(source, filename)
    try:
        given = regions(source, tree, filename)
    except SourceError:
        given = []  # markers that the student has broken enclose nothing
    progress: dict[str, bool] = {}
    for statement in definitions(tree.body):
        if any(statement in region for region in given):
            continue
        for name in filter(is_public, bound_names(statement)):
            for function in _functions(statement):
                if not is_declaration(function) and not any(function in region for region in given):
                    progress[name] = progress.get(name, True) and _is_open(function)
            if _may_bind_code(statement, name):
                progress[name] = False
    return progress


def _functions(statement: ast.stmt) -> Iterator[FunctionNode]:
    """A function itself; the public methods of a class and of the public classes in it."""
    if isinstance(statement, FunctionNode):
        yield statement
    elif isinstance(statement, ast.ClassDef):
        for member in definitions(statement.body):
            if any(map(is_public, bound_names(member))):
                yield from _functions(member)


def _is_ellipsis(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and statement.value.value is ...
    )


def _is_open(function: FunctionNode) -> bool:
    body = function.body[is_docstring(function.body[0]) :]
    match [each for each in body if not is_filler(each)]:
        case [ast.Raise(exc=ast.Name("NotImplementedError") | ast.Call(func=ast.Name("NotImplementedError")))]:
            return True
    return False


def _may_bind_code(statement: ast.stmt, name: str) -> bool:
    """Whether an assignment may be somebody's work (`attention = _Attention.apply`) rather than a constant or alias."""
    value = getattr(statement, "value", None)
    if value is None or name.startswith("_"):
        return False
    used = [node.id for node in ast.walk(value) if isinstance(node, ast.Name)]
    return name.islower() or not all(map(is_public, used))

"""Ships a function of a test file to where the submission runs, with everything of that file that it needs."""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from grading.data.request import Scenario

STAY = ("grading", "tests")  # packages that the submission's process must not see


@functools.cache
def scenario_of(function: Callable[..., Any]) -> Scenario:
    """The function, and the statements of its file that define what it names, directly or through others.

    The imports that they use come along. Annotations are never evaluated: what only they name stays behind. TypeError
    where the scenario could not run: it isn't at the top level of its file, or something that it needs is imported
    from the grader or the tests.
    """
    function = inspect.unwrap(function)
    scenario, filename = function.__name__, inspect.getsourcefile(function) or ""
    file = _File(filename)
    if function.__qualname__ != scenario or scenario not in file.statements:
        raise TypeError(f"the scenario {function.__qualname__} is not defined at the top level of its file")
    definitions: set[tuple[int, str]] = set()
    used: set[str] = set()
    wanted = [(scenario, scenario)]  # each name, and the name whose definition uses it
    while wanted:
        name, user = wanted.pop()
        if name in used:
            continue
        used.add(name)
        _refuse(name, file.staying, scenario, user)
        for node in file.statements.get(name, []):
            for inner in (local := _staying(node)):
                _refuse(inner, local, scenario, name)
            definitions.add((file.first_line(node), file.source(node)))
            wanted += [(each, name) for each in _looked_up(_compiled(node))]
    return Scenario(scenario, filename, "\n".join(file.imports(used)), tuple(sorted(definitions)))


def _refuse(name: str, staying: dict[str, str], scenario: str, user: str) -> None:
    if name in staying:
        where = "" if user == scenario else f" (in {user})"
        raise TypeError(f"the scenario {scenario} uses {name}, which is imported from {staying[name]}{where}")


class _File:
    """The top level of a test file: its imports, and for each other name the statements that define it."""

    def __init__(self, filename: str) -> None:
        text = Path(filename).read_text("utf-8")
        self.lines = text.split("\n")
        self.import_statements: list[ast.Import | ast.ImportFrom] = []
        self.staying: dict[str, str] = {}  # names that are imported from the grader or the tests, and their modules
        self.statements: dict[str, list[ast.stmt]] = {}
        others = []
        for node in ast.parse(text).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.import_statements.append(node)
                self.staying |= _staying(node)
            else:
                others.append(node)
        for node in others:
            for name in _bound(_compiled(node)):
                self.statements.setdefault(name, []).append(node)
        for node in others:
            for name in _changed(node) & self.statements.keys():
                self.statements[name].append(node)

    def imports(self, used: set[str]) -> Iterator[str]:
        """The import statements for these names."""
        for node in self.import_statements:
            if isinstance(node, ast.Import):
                names = [alias for alias in node.names if _bound_by(alias) in used]
                if names:
                    yield ast.unparse(ast.Import(names))
            elif node.module != "__future__" and not _staying(node):
                names = [alias for alias in node.names if alias.name == "*" or _bound_by(alias) in used]
                if names:
                    yield ast.unparse(ast.ImportFrom(node.module, names, node.level))

    def first_line(self, node: ast.stmt) -> int:
        return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])

    def source(self, node: ast.stmt) -> str:
        return "\n".join(self.lines[self.first_line(node) - 1 : node.end_lineno]) + "\n"


def _staying(node: ast.stmt) -> dict[str, str]:
    """The names that a statement imports from the grader or the tests, functions' own imports included, and whence."""
    found: dict[str, str] = {}
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            found |= {_bound_by(alias): alias.name for alias in each.names if alias.name.partition(".")[0] in STAY}
        elif isinstance(each, ast.ImportFrom):
            module = "." * each.level + (each.module or "")
            if each.level or module.partition(".")[0] in STAY:  # a relative import stays among the tests
                found |= {_bound_by(alias): module for alias in each.names}
    return found


def _bound_by(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _compiled(node: ast.stmt) -> types.CodeType:
    """With annotations as strings, as in this file, and as they are when the scenario runs."""
    return compile(ast.Module([node], []), "<scenario>", "exec")


def _bound(code: types.CodeType) -> set[str]:
    """The names that a statement gives a value: variables, functions, classes, imports in `try` and `if`."""
    return {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_NAME"}


def _looked_up(code: types.CodeType) -> Iterator[str]:
    """The names that code looks up beyond its own scopes."""
    own: set[str] = set()
    for each in dis.get_instructions(code):
        if each.opname == "STORE_NAME" and code.co_name != "<module>":
            own.add(each.argval)  # from here on the name is the class's
        elif ("GLOBAL" in each.opname or each.opname == "LOAD_NAME") and each.argval not in own:
            yield each.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _looked_up(constant)


def _changed(node: ast.AST) -> set[str]:
    """The names whose values a statement changes: `name[…] = …`, `name.attribute = …`, `name.method(…)`."""
    found: set[str] = set()
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Lambda():
            return found  # changes nothing before it is called
        case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
            found = {_root(node)}
        case ast.Expr(value=ast.Call(func=ast.Attribute() as method)):
            found = {_root(method)}
    return found.union(*map(_changed, ast.iter_child_nodes(node)))


def _root(node: ast.expr) -> str:
    """`name` of `name.attribute[…].attribute`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""

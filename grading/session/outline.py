"""Graded tests without their imports and bodies: the names, marks and parameters of an unstarted exercise's tests.

Listing the points must not require importing torch, and the tests must have the same names as later.
"""

from __future__ import annotations

import ast
import functools
import types
from pathlib import Path


@functools.cache
def test_sources(path: Path) -> dict[str, tuple[int, str]]:
    """For each test function of a file: the number of its first line and its source, decorators included."""
    text = path.read_text("utf-8")
    lines = text.splitlines(keepends=True)
    found = {}
    for node in _test_functions(ast.parse(text)):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        found[node.name] = first, "".join(lines[first - 1 : node.end_lineno])
    return found


def outline(path: Path) -> types.ModuleType | None:
    """A module with the same tests, to be collected but never run; None if the file itself must be imported.

    It must be imported if a mark or a parameter set is neither a literal, the name of one, nor computed from them, or
    if a decorator is neither a mark, the name of one, nor Hypothesis's.
    """
    tree = ast.parse(path.read_text("utf-8"), str(path))
    body: list[ast.stmt] = [ast.parse("import pytest").body[0]]
    marks = {"pytest"}  # and constants: the names that the body knows
    for node in tree.body:
        if isinstance(node, ast.Assign) and _is_known(node.value, marks):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            body += [node] if names else []
            marks |= names
    for function in _test_functions(tree):
        docstring = [function.body[0]] if ast.get_docstring(function) is not None else []
        function.body = [*docstring, ast.copy_location(ast.Pass(), function)]
        if any(_first_name(each) not in marks | _HYPOTHESIS for each in function.decorator_list):
            return None
        function.decorator_list = [each for each in function.decorator_list if _first_name(each) in marks]
        body.append(function)
    module = types.ModuleType(f"{path.stem}_outline")
    module.__file__ = str(path)
    try:
        exec(compile(ast.Module(body, []), str(path), "exec", dont_inherit=True, flags=_ANNOTATIONS), vars(module))
    except Exception:
        return None
    return module


_HYPOTHESIS = {"given", "settings", "example", "hypothesis"}
_ANNOTATIONS = __import__("__future__").annotations.compiler_flag  # names in annotations are not looked up


def _test_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def _first_name(node: ast.expr) -> str:
    """`pytest` of `pytest.mark.points(2)`."""
    while not isinstance(node, ast.Name):
        match node:
            case ast.Call(func=inner) | ast.Attribute(value=inner):
                node = inner
            case _:
                return ""
    return node.id


def _is_known(node: ast.expr, names: set[str]) -> bool:
    """Whether an expression is a literal, a mark, or arithmetic with what these names stand for."""
    if any(isinstance(each, ast.Call) and _first_name(each.func) != "pytest" for each in ast.walk(node)):
        return False
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} <= names

"""Ships a function of a test file to where the submission runs, with everything of that file that it needs."""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from grading.data.request import Scenario

STAY = ("grading", "tests")  # packages that the submission's process must not see


@functools.cache
def scenario_of(function: Callable[..., Any]) -> Scenario:
    """The function, and the functions, classes and constants of its file that it names, directly or through others.

    The imports that they use come along, except those of the grader and the tests. TypeError where a name that they
    use comes from such an import: the scenario could not run.
    """
    filename = inspect.getsourcefile(function) or "<scenario>"
    lines, first = inspect.getsourcelines(function)
    source = textwrap.dedent("".join(lines))
    file = _File(filename)
    needed = {function.__name__: (first, source)}
    wanted = list(_globals(source))
    used: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in used:
            continue
        used.add(name)
        if name in file.staying:
            raise TypeError(
                f"the scenario {function.__name__} uses {name}, which is imported from {file.staying[name]}"
            )
        if name in file.definitions and name not in needed:
            node = file.definitions[name]
            needed[name] = file.first_line(node), file.source(node)
            wanted += _globals(needed[name][1])
    definitions = tuple(dict.fromkeys(sorted(needed.values())))
    imports = "\n".join(["from __future__ import annotations", *file.imports(used)])
    return Scenario(function.__name__, filename, imports, definitions)


class _File:
    """The top level of a test file."""

    def __init__(self, filename: str) -> None:
        text = Path(filename).read_text("utf-8")
        self.lines = text.splitlines()
        self.tree = ast.parse(text)
        self.definitions: dict[str, ast.stmt] = {}
        self.staying: dict[str, str] = {}  # names that are imported from where the submission's process must not look
        for node in self.tree.body:
            self.definitions |= dict.fromkeys(_defined(node), node)
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    module = node.module or "" if isinstance(node, ast.ImportFrom) else alias.name
                    if module.partition(".")[0] in STAY:
                        self.staying[_bound(alias)] = module

    def imports(self, used: set[str]) -> Iterator[str]:
        """The import statements for these names."""
        for node in self.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__":
                kept = [alias for alias in node.names if _bound(alias) in used - self.staying.keys()]
                if isinstance(node, ast.Import) and kept:
                    yield ast.unparse(ast.Import(kept))
                elif kept:
                    yield ast.unparse(ast.ImportFrom(node.module, kept, node.level))  # type: ignore[union-attr]

    def first_line(self, node: ast.stmt) -> int:
        return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])

    def source(self, node: ast.stmt) -> str:
        return "\n".join(self.lines[self.first_line(node) - 1 : node.end_lineno]) + "\n"


def _globals(source: str) -> set[str]:
    """The names that code looks up beyond its own scopes; annotations are never evaluated."""
    found, codes = set(), [compile(f"from __future__ import annotations\n{source}", "<scenario>", "exec")]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        loads = (each for each in dis.get_instructions(code) if each.opname.startswith("LOAD_"))
        found |= {each.argval for each in loads if "GLOBAL" in each.opname or "NAME" in each.opname}
    return found


def _defined(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
            return [name]
    return []


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]

"""Which tests run first after a save: those that failed, then those that the change may concern, then the others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from grading.data.record import Record


def in_order(records: Iterable[Record], changed: set[str]) -> list[str]:
    """The names of tests of an earlier run, in the order in which to run them again.

    Tests of speed come last: they take longest.
    """

    def rank(record: Record) -> tuple[bool, int]:
        touched = bool(changed & set(re.findall(r"\w+", record.test_code)))
        return "ratio" in record.figures, 0 if record.verdict == "failed" else 1 if touched else 2

    return [record.test for record in sorted(records, key=rank)]


def changed_names(before: str, now: str) -> set[str]:
    """The top-level names of a file whose code changed, and those that use them; all of them if it does not parse."""
    try:
        old, new = _definitions(before), _definitions(now)
    except (SyntaxError, ValueError, RecursionError):
        return set(re.findall(r"^(?:class|def) (\w+)", now, re.MULTILINE))
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    uses = {name: set(re.findall(r"\w+", code)) for name, code in new.items()}
    while more := {name for name, used in uses.items() if used & changed} - changed:
        changed |= more
    return changed


def _definitions(source: str) -> dict[str, str]:
    """The code of each function, class and variable of a module, however it is laid out."""
    found: dict[str, str] = {}
    for node in ast.parse(source).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names = [name]
            case ast.Assign(targets=targets):
                names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case _:
                names = ["import"]
        for name in names:
            found[name] = found.get(name, "") + ast.unparse(node)
    return found

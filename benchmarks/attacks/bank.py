"""The attacks: one hand-in a file, under a folder that names its kind. They are read, never imported: they are hostile.

An attack begins with a docstring, its title and then its strategy. Constants say what is attacked:

    EXERCISE = "week1/moe"
    TESTS = ["test_the_worked_example"]  # graded tests that it must not earn a point of
    OPTIONS = ["--memory-limit", "1500"]  # further options of the run; may be left out
    HONEST = True  # a control, not an attack: whether it earns all points (True) or none (False)

The rest is the student's file. Strings in it may name places: @COURSE@, @OTHERS@ (other students' folders), @SITE@
(installed packages), @PORT@ (somebody listens there, on this machine). `prepare(folder)`, if there is one, is run by
the benchmark and puts what else belongs to the hand-in into its folder.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONTROLS = "controls"
KINDS = {
    "answers": "reading the answers",
    "grader": "changing the grader",
    "parent": "the grader's process",
    "report": "the report",
    "word": "what only the child can say",
    "guessing": "right without the work",
    "clock": "the clock",
    "total": "the total",
    "people": "what people read",
    "resources": "the machine's resources",
    "residue": "what outlives the run",
    "packages": "files of the hand-in",
    CONTROLS: "honest hand-ins",
}
SETTINGS = ("EXERCISE", "TESTS", "OPTIONS", "HONEST")


@dataclass(frozen=True)
class Attack:
    path: Path

    @property
    def kind(self) -> str:
        return self.path.parent.name

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.path.stem}"

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def _module(self) -> ast.Module:
        return ast.parse(self.text, self.path.name)

    @property
    def strategy(self) -> str:
        return ast.get_docstring(self._module) or ""

    @property
    def title(self) -> str:
        return self.strategy.partition("\n")[0].rstrip(".")

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {name: ast.literal_eval(node.value) for name, node in self._assigned()}

    def _assigned(self) -> list[tuple[str, ast.Assign]]:
        return [
            (target.id, node)
            for node in self._module.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id in SETTINGS
        ]

    @property
    def exercise(self) -> str:
        return self.settings["EXERCISE"]

    @property
    def tests(self) -> list[str]:
        return self.settings["TESTS"]

    @property
    def options(self) -> list[str]:
        return self.settings.get("OPTIONS", [])

    @property
    def honest(self) -> bool | None:
        """Of a control, whether it is right; None for an attack."""
        return self.settings.get("HONEST")

    @cached_property
    def _preparation(self) -> ast.FunctionDef | None:
        found = (node for node in self._module.body if isinstance(node, ast.FunctionDef) and node.name == "prepare")
        return next(found, None)

    def source(self, places: dict[str, str]) -> str:
        """The student's file: the attack without what is said about it."""
        lines = self.text.splitlines()
        about: list[ast.stmt] = [node for _, node in self._assigned()]
        about += [self._module.body[0], *([self._preparation] if self._preparation else [])]
        for node in about:
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
        return _named("\n".join(lines) + "\n", places)

    def write(self, folder: Path, places: dict[str, str]) -> None:
        """Write the hand-in."""
        path = folder / f"{self.exercise}.py"
        path.parent.mkdir(parents=True)
        path.write_text(self.source(places), "utf-8")
        if self._preparation is not None:
            known: dict[str, Any] = {"Path": Path}
            exec(_named(ast.unparse(self._preparation), places), known)
            prepare: Callable[[Path], None] = known["prepare"]
            prepare(folder)


def _named(text: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        text = text.replace(f"@{name}@", value)
    return text


def all_attacks() -> list[Attack]:
    """Every attack and control, by kind and name."""
    return [Attack(path) for kind in KINDS for path in sorted((HERE / kind).glob("*.py"))]

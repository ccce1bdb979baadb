"""Spoiled answers: a numeric test that still passes when its answers are spoiled has a hole, and so has any test that
passes when every call is refused."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

from grading.author.inner_run import grade_tree
from grading.course.layout import Course
from grading.course.trees import Tree, find_tree
from grading.data.record import Grade, Record
from grading.data.request import Request
from grading.data.result import Result, Trouble

SPOILS = {"zero": "all zeros", "mean": "its mean everywhere", "truncated": "cut off, with a tail of zeros"}


def unspoiled(course: Course, exercise: str, solution: Grade, spoil: str) -> list[str]:
    """The numeric tests that still pass when the solution's outputs are spoiled."""
    numeric = _numeric(course.tests(exercise))
    tests = [record.test for record in solution.records if record.test.partition("[")[0] in numeric]
    spoiler, spoiled = Spoiler(spoil), set()

    def note(record: Record) -> bool:
        if spoiler.altered:
            spoiled.add(record.id)
        spoiler.altered = False
        return False

    solutions = find_tree(course, "solutions", course.root)
    grade = grade_tree(course, exercise, solutions, tests, until=note, executor=spoiler)
    return [each.test for each in grade.records if each.verdict == "passed" and each.id in spoiled]


def unrefused(course: Course, exercise: str) -> list[str]:
    """The tests that earn points when every call raises an exception that names everything."""
    grade = grade_tree(course, exercise, find_tree(course, "solutions", course.root), executor=Refuser())
    return [record.test for record in grade.records if record.points]


def _numeric(tests: Path) -> set[str]:
    """The functions of a test file that call `.close_to(…)`, directly or through other functions of the file."""
    calls = {
        node.name: {
            each.func.attr if isinstance(each.func, ast.Attribute) else getattr(each.func, "id", "")
            for each in ast.walk(node)
            if isinstance(each, ast.Call)
        }
        for node in ast.parse(tests.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    found: set[str] = set()
    while more := {name for name, called in calls.items() if called & {"close_to", *found}} - found:
        found |= more
    return found


class Spoiler:
    """Runs requests unchanged and spoils the numbers of their results."""

    def __init__(self, how: str) -> None:
        self.how, self.altered = how, False

    def run(self, request: Any, tree: Tree, exercise: str) -> tuple[Any, BaseException | None]:
        import torch

        from grading.data.plain import map_tensors
        from grading.run.executors import InProcess

        result, error = InProcess().run(request, tree, exercise)

        def spoil(tensor: torch.Tensor) -> torch.Tensor:
            if not tensor.is_floating_point() or not tensor.numel():
                return tensor
            spoiled = tensor.clone()
            if self.how == "zero":
                spoiled.zero_()
            elif self.how == "mean":
                spoiled.fill_(tensor.double().mean().item())
            else:
                axis = max(tensor.ndim - 2, 0)
                length = tensor.shape[axis] if tensor.ndim else 0
                if tensor.ndim:
                    spoiled.narrow(axis, length - (length + 3) // 4, (length + 3) // 4).zero_()
            self.altered = self.altered or not torch.equal(spoiled, tensor)
            return spoiled

        return replace(result, output=map_tensors(result.output, spoil)), error

    def close(self) -> None:
        pass


class Refuser:
    """Answers every request with an exception of every kind, whose message mentions everything there is."""

    KINDS = ("ValueError", "TypeError", "KeyError", "RuntimeError", "OSError", "Exception", "BaseException")

    def run(self, request: Request, tree: Tree, exercise: str) -> tuple[Result, BaseException | None]:
        from grading.data.plain import map_tensors

        given = (request.args, request.kwargs, request.init)
        file = tree.file(exercise)
        names = file.read_text("utf-8") if file else ""
        names += str(list(range(-100, 5000)))  # what is computed from the arguments, such as a width over heads
        shapes = map_tensors(given, lambda tensor: tuple(tensor.shape))
        return Result(
            trouble=Trouble("raised", f"ValueError: {given} {shapes} {names}", "ValueError", self.KINDS)
        ), None

    def close(self) -> None:
        pass

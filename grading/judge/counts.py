"""Judges the bounds of `at_most`. These are on counts, so that the points are the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grading.ask.got import Got
from grading.ask.marks import AtMost
from grading.course.layout import Course
from grading.course.trees import find_tree
from grading.explain.outcome import Unmet
from grading.judge.same import check_same
from grading.run.executors import InProcess, run

ROUGHLY = 0.2  # that a counted answer may differ from the solution's: how exact it is, other tests judge


def judge_counts(allowed: AtMost, course: Course, observed: Sequence[Got], figures: dict[str, Any]) -> dict[str, float]:
    """The counts by name. Unmet if one exceeds its bound.

    A count is the test's figure of that name, or else the total over the requests with `count=True`.
    """
    counted = [got for got in observed if got.request.count]
    found: dict[str, float] = {}
    why = f" ({allowed.because})" if allowed.because else ""
    whose = "the solution's" if allowed.of == "solutions" else f"{allowed.of}'s"
    for name, bound in allowed.counts.items():
        found[name] = figures[name] if name in figures else _total(name, counted)
        if isinstance(bound, str):
            assert allowed.of is not None
            reference = _total(name, [_reference(got, course, allowed.of) for got in counted])
            most, words = float(bound.removesuffix("x")) * reference, f", {bound.removesuffix('x')}× {whose}"
        else:
            most, words = bound, ""
        if found[name] > most:
            what = name.replace("_", " ")
            raise Unmet(
                observed[-1].explain(
                    f"{what}: {found[name]:,.0f} (at most {most:,.0f} allowed)",
                    expected=f"at most {most:,.0f} {what}{words}{why}",
                    got=f"{found[name]:,.0f} {what}",
                )
            )
    return found


def check_counted(course: Course, observed: Sequence[Got]) -> None:
    """Unmet if a counted call did not compute the solution's answer: what needs few operations must need some."""
    for got in observed:
        counted = got.request.count and got.request.scenario is None and got.trouble is None
        if not counted or got.tree.name == "solutions":
            continue
        right = _reference(replace(got, request=replace(got.request, count=False)), course, "solutions")
        if right.trouble is None:
            check_same(
                got,
                right,
                "a counted call's answer is wrong",
                expected="the call whose operations are counted computes the answer",
                returned="numbers that differ from the solution's",
                share=ROUGHLY,
            )


def _total(name: str, counted: Sequence[Got]) -> float:
    if not counted:
        raise KeyError(f"at_most({name}=…): no request was made with count=True, and no figure has this name")
    return sum(got.counts[name] for got in counted)


def _reference(got: Got, course: Course, of: str) -> Got:
    tree = find_tree(course, of, course.root, "of=")
    result, error = run(InProcess(), got.request, tree, got.exercise)
    return Got(got.request, result, tree, got.exercise, error)

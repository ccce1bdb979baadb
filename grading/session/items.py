"""Graded tests as pytest items: their ids and titles, and what fixtures store on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from grading.explain.outcome import NotStarted, Unmet
from grading.session.collect import GradedModule

if TYPE_CHECKING:
    from grading.ask.submission import Submission


class Parts:
    """Partial credit: the named parts of a test, each earned separately."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.earned: set[str] = set()
        self.entered: set[str] = set()
        self.failures: list[Unmet] = []
        self.unstarted: list[NotStarted] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if name not in self.names:
            raise ValueError(f"part({name!r}): the points mark names {', '.join(sorted(self.names)) or 'no parts'}")
        first = name not in self.entered
        self.entered.add(name)
        try:
            yield
        except Unmet as failure:
            self.earned.discard(name)
            self.failures.append(failure)
        except NotStarted as outcome:
            self.earned.discard(name)
            self.unstarted.append(outcome)
        else:
            if first:
                self.earned.add(name)

    def finish(self) -> None:
        """Fail the test if a part failed, or was never tried; it is not started if a part is not."""
        if self.failures:
            raise self.failures[0]
        if self.unstarted:
            raise self.unstarted[0]
        if missing := self.names - self.entered:
            raise RuntimeError(f"parts that the test never tried: {', '.join(sorted(missing))}")


PARTS = pytest.StashKey[Parts]()
SUBMISSION: pytest.StashKey[Submission] = pytest.StashKey()
FIGURES = pytest.StashKey[dict[str, Any]]()


def graded_module(item: pytest.Item) -> GradedModule | None:
    return item.getparent(GradedModule)


def record_id(item: pytest.Item) -> str:
    module = graded_module(item)
    return f"{module.exercise if module else item.nodeid.partition('::')[0]}::{item.name}"


def title(item: pytest.Item) -> str:
    """The first line of the test's docstring, or its name in words, with its parameters."""
    name, bracket, parameters = item.name.partition("[")
    docstring = (getattr(item, "obj", None).__doc__ or "").strip()
    words = docstring.splitlines()[0].rstrip(".") if docstring else name.removeprefix("test_").replace("_", " ")
    return f"{words} {bracket}{parameters}".strip()

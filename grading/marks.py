"""The marks of graded tests, read in one place.

`@pytest.mark.points(2)`                        what the test earns, each parameter set by itself
`@pytest.mark.points(output=1, gradients=1)`    partial credit: `with part("output"): …` earns each share on its own
`@pytest.mark.limit(seconds=60)`                the time limit of one request
`@pytest.mark.handout("masks")`                 the section of the handout that a failure points to
`@pytest.mark.process(environment={…}, loopback=True)`   run the requests in a process of their own, made with these
                                                environment variables, with no network beyond this machine
`@pytest.mark.needs("dspy", how)`               a module that not everybody has, and the command that installs it,
                                                pip with the extra of this name where left out
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from grading.request import Process

DESCRIPTIONS = (
    "points(number, **parts): what a graded test earns, as a whole or in named parts (see the `part` fixture)",
    "limit(seconds): the time limit of each request that a graded test makes",
    "handout(section): the section of the exercise's handout that a failure points to",
    "process(environment, loopback): a process of its own for the requests of a graded test",
    "needs(module, how): a module, without which a graded test is left out, and the command that installs it",
)
DEFAULT_SECONDS = 30.0


def points_of(item: pytest.Item) -> tuple[float, dict[str, float]]:
    """The points of a test and its named parts. UsageError for a mark that makes no sense."""
    mark = item.get_closest_marker("points")
    if mark is None:
        return 0.0, {}
    parts = {name: _positive(item, value) for name, value in mark.kwargs.items()}
    if len(mark.args) > 1 or bool(mark.args) == bool(parts):
        raise pytest.UsageError(
            f"{item.nodeid}: points takes one number, or named parts, not {mark.args} {mark.kwargs}"
        )
    return (_positive(item, mark.args[0]) if mark.args else sum(parts.values())), parts


def seconds_of(item: pytest.Item) -> float:
    mark = item.get_closest_marker("limit")
    return _positive(item, mark.kwargs.get("seconds", DEFAULT_SECONDS)) if mark else DEFAULT_SECONDS


def process_of(item: pytest.Item) -> Process | None:
    """The process that the requests of a test want for themselves."""
    mark = item.get_closest_marker("process")
    if mark is None:
        return None
    from grading.request import Process

    environment = mark.kwargs.get("environment", {})
    return Process(tuple(sorted(environment.items())), mark.kwargs.get("loopback", False))


def missing_of(item: pytest.Item) -> str | None:
    """What the test needs and is not installed, and how to install it."""
    for mark in item.iter_markers("needs"):
        module, *rest = mark.args
        how = rest[0] if rest else f"pip install -e '.[{module}]'"
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: {how}"
    return None


def section_of(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("handout")
    return mark.args[0] if mark else None


def _positive(item: pytest.Item, value: Any) -> float:
    if not isinstance(value, (int, float)) or value <= 0:
        raise pytest.UsageError(f"{item.nodeid}: expected a positive number in the mark, not {value!r}")
    return float(value)

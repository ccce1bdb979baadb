"""The marks of graded tests, read in one place.

`@pytest.mark.points(2)`                        what the test earns, each parameter set by itself
`@pytest.mark.points(output=1, gradients=1)`    partial credit: `with part("output"): …` earns each share on its own
`@pytest.mark.limit(seconds=60)`                the time limit of one request
`@pytest.mark.handout("masks")`                 the section of the handout that a failure points to
"""

from __future__ import annotations

from typing import Any

import pytest

DESCRIPTIONS = (
    "points(number, **parts): what a graded test earns, as a whole or in named parts (see the `part` fixture)",
    "limit(seconds): the time limit of each request that a graded test makes",
    "handout(section): the section of the exercise's handout that a failure points to",
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


def section_of(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("handout")
    return mark.args[0] if mark else None


def _positive(item: pytest.Item, value: Any) -> float:
    if not isinstance(value, (int, float)) or value <= 0:
        raise pytest.UsageError(f"{item.nodeid}: expected a positive number in the mark, not {value!r}")
    return float(value)

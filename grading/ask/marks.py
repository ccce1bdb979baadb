"""The marks of graded tests, read in one place.

`@pytest.mark.points(2)`                        the points of the test, earned separately for each parameter set
`@pytest.mark.points(output=1, gradients=1)`    partial credit: `with part("output"): …` earns each share separately
`@pytest.mark.limit(seconds=60)`                the time limit of one request
`@pytest.mark.handout("masks")`                 the section of the handout that a failure points to
`@pytest.mark.process(environment={…}, loopback=True)`   run the requests in their own process, started with these
                                                environment variables and without network access beyond this machine
`@pytest.mark.needs("dspy", how)`               an optional module, and the command that installs it (default: pip
                                                with the extra of this name)
`@pytest.mark.at_least("0.4x", "0.8x", of="solutions")`   the speed relative to a reference in the same run, judged by
                                                the fixture `speed`; each limit earns its share of the points
`@pytest.mark.at_most(flops="1.2x", of="solutions")`      upper bounds on counts, absolute or relative to a reference
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from grading.data.request import Process

DESCRIPTIONS = (
    "points(number, **parts): the points of a graded test, as a whole or in named parts (see the `part` fixture)",
    "limit(seconds): the time limit of each request that a graded test makes",
    "handout(section): the section of the exercise's handout that a failure points to",
    "process(environment, loopback): run the requests of a graded test in their own process",
    "needs(module, how): a module without which a graded test is skipped, and the command that installs it",
    "at_least(*limits, of, tolerance, seconds): the speed that a graded test requires, relative to a reference",
    "at_most(of, because, **counts): upper bounds on counts, absolute or relative to a reference",
)
DEFAULT_SECONDS = 30.0


def points_of(item: pytest.Item) -> tuple[float, dict[str, float]]:
    """The points of a test and its named parts. UsageError for an invalid mark."""
    mark = item.get_closest_marker("points")
    if mark is None:
        return 0.0, {}
    parts = {name: _positive(item, value) for name, value in mark.kwargs.items()}
    if (limit := at_least_of(item)) is not None and len(limit.texts) > 1 and len(mark.args) == 1 and not parts:
        total = _positive(item, mark.args[0])
        return total, dict.fromkeys(limit.texts, total / len(limit.texts))
    if len(mark.args) > 1 or bool(mark.args) == bool(parts):
        raise pytest.UsageError(
            f"{item.nodeid}: points accepts one number or named parts, not {mark.args} {mark.kwargs}"
        )
    return (_positive(item, mark.args[0]) if mark.args else sum(parts.values())), parts


def seconds_of(item: pytest.Item) -> float:
    mark = item.get_closest_marker("limit")
    return _positive(item, mark.kwargs.get("seconds", DEFAULT_SECONDS)) if mark else DEFAULT_SECONDS


def process_of(item: pytest.Item) -> Process | None:
    """The process that a test requires for its requests; None if it requires none."""
    mark = item.get_closest_marker("process")
    if mark is None:
        return None
    from grading.data.request import Process

    environment = mark.kwargs.get("environment", {})
    return Process(tuple(sorted(environment.items())), mark.kwargs.get("loopback", False))


def missing_of(item: pytest.Item) -> str | None:
    """The module that a test needs but is not installed, and how to install it; None if nothing is missing."""
    for mark in item.iter_markers("needs"):
        module, *rest = mark.args
        how = rest[0] if rest else f"pip install -e '.[{module}]'"
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: {how}"
    return None


@dataclass(frozen=True)
class AtLeast:
    """The speed that a test requires.

    `of`: the reference: "solutions", a library, or "solutions.other_function"; the first that can run here is used.
    `tolerance`: the slowdown since an earlier run, relative to the reference, that is not yet a regression.
    `seconds`: the time limit of the comparison.
    """

    texts: tuple[str, ...]  # "0.4x", in ascending order
    of: tuple[str, ...]
    tolerance: float = 0.1
    seconds: float = 20.0

    @property
    def factors(self) -> tuple[float, ...]:
        return tuple(float(text.removesuffix("x")) for text in self.texts)


def at_least_of(item: pytest.Item) -> AtLeast | None:
    """The speed that a test requires. UsageError for an invalid mark."""
    mark = item.get_closest_marker("at_least")
    if mark is None:
        return None
    options = dict(mark.kwargs)
    of = options.pop("of", None)
    of = (of,) if isinstance(of, str) else of
    if not of or not isinstance(of, tuple) or set(options) - {"tolerance", "seconds"}:
        raise pytest.UsageError(
            f"{item.nodeid}: at_least accepts limits, of=, tolerance= and seconds=, not {mark.kwargs}"
        )
    for text in mark.args:
        _factor(item, text)
    limit = AtLeast(mark.args, of, **{name: _positive(item, value) for name, value in options.items()})
    if not limit.texts or list(limit.factors) != sorted(set(limit.factors)):
        raise pytest.UsageError(f"{item.nodeid}: at_least needs limits in ascending order, not {mark.args}")
    return limit


@dataclass(frozen=True)
class AtMost:
    """Upper bounds on counts: a number, or "1.2x" the reference's count for the same requests."""

    counts: dict[str, float | str]
    of: str | None
    because: str  # what the student reads beside the bound


def at_most_of(item: pytest.Item) -> AtMost | None:
    mark = item.get_closest_marker("at_most")
    if mark is None:
        return None
    counts = dict(mark.kwargs)
    of, because = counts.pop("of", None), counts.pop("because", "")
    relative = [name for name, bound in counts.items() if isinstance(bound, str)]
    for name in relative:
        _factor(item, counts[name])
    if mark.args or not counts or bool(relative) != bool(of):
        raise pytest.UsageError(
            f"{item.nodeid}: at_most accepts counts by name, and of= if one is relative, not {mark.args} {mark.kwargs}"
        )
    return AtMost(counts, of, because)


def _factor(item: pytest.Item, text: Any) -> float:
    """2.5 for "2.5x"."""
    if not isinstance(text, str) or re.fullmatch(r"\d+(\.\d+)?x", text) is None:
        raise pytest.UsageError(f'{item.nodeid}: expected a factor such as "0.8x", not {text!r}')
    return _positive(item, float(text.removesuffix("x")))


def section_of(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("handout")
    return mark.args[0] if mark else None


def _positive(item: pytest.Item, value: Any) -> float:
    if not isinstance(value, (int, float)) or value <= 0:
        raise pytest.UsageError(f"{item.nodeid}: expected a positive number in the mark, not {value!r}")
    return float(value)

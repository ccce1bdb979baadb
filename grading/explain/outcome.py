"""The exceptions that end a graded test, one for each outcome other than a pass."""

from __future__ import annotations

import pytest

from grading.explain.explanation import Explanation


class Unmet(AssertionError):
    """The submission does not do what the test expects."""

    def __init__(self, explanation: Explanation) -> None:
        super().__init__(explanation.reason)
        self.explanation = explanation


class Ungraded(pytest.skip.Exception):  # type: ignore[name-defined]
    """Nothing to judge; for pytest, the test is skipped."""


class NotStarted(Ungraded):
    """The function still raises NotImplementedError."""


class NotOffered(Ungraded):
    """The library has no such operator."""


class NotGradableHere(Ungraded):
    """This machine lacks what the test needs."""


class Inconclusive(Ungraded):
    """The machine is too noisy for a verdict on speed."""


class NotReached(Ungraded):
    """The run's time is over."""

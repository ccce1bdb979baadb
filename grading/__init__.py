"""The grader: a pytest plugin (`grading.plugin`) and the tools for writing graded tests.

Nothing here imports torch before a test needs it, so grading an unstarted exercise takes no time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grading.judge.expect import expect as expect

__all__ = ["expect"]


def __getattr__(name: str) -> Any:
    if name == "expect":  # lazy: the child process of --isolate imports this package without the judge
        from grading.judge.expect import expect

        return expect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The grader: a pytest plugin (`grading.plugin`) and everything that graded tests are written with.

Nothing here imports torch before a test needs it, so that an unstarted exercise is answered at once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grading.judge.expect import expect as expect

__all__ = ["expect"]


def __getattr__(name: str) -> Any:
    if name == "expect":  # late, because the child process of --isolate needs the package without the judge
        from grading.judge.expect import expect

        return expect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The outcome of one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grading.course.trees import Tree
from grading.data.request import Request
from grading.data.result import Result, Trouble
from grading.explain.explanation import Explanation
from grading.explain.outcome import NotGradableHere, NotOffered, NotStarted, Unmet
from grading.explain.show import show_call


@dataclass(frozen=True)
class Got:
    """The outcome of one request. Reading `output`, `counts` or `grad` of a failed request fails the test."""

    request: Request
    result: Result
    tree: Tree
    exercise: str
    error: BaseException | None = None  # the submission's own exception, when it ran in this process
    elapsed: float = 0.0  # seconds until the result arrived, by this process's clock

    @property
    def output(self) -> Any:
        self.require_answer()
        return self.result.output

    @property
    def counts(self) -> dict[str, int]:
        """The counts of a request with `count=True`: see `grading.run.counters.Counts`."""
        self.require_answer()
        return self.result.counts

    @property
    def printed(self) -> str:
        return self.result.printed

    @property
    def trouble(self) -> Trouble | None:
        return self.result.trouble

    def grad(self, of: Any) -> Any:
        """The gradient of one tensor of the request, or of a parameter by name; None if none flows."""
        self.require_answer()
        key = of if isinstance(of, str) else self.request.inputs.number(of)
        if key is None:
            raise ValueError("this tensor is not part of the request")
        return self.result.grads[key]

    def name_of(self, number: int) -> str:
        """The submission's name for an input of the request."""
        return self.request.name_of(number, self.result.parameters)

    def require_answer(self) -> None:
        """If there is no answer, raise the verdict that follows."""
        trouble = self.result.trouble
        if trouble is None:
            return
        if trouble.kind == "unstarted":
            if self.tree.library:
                raise NotOffered(trouble.message or f"{self.tree.name} does not offer it")
            if trouble.exercise not in ("", self.exercise):
                raise NotStarted(
                    f"builds on {trouble.exercise}, which is not started (--prerequisites solutions uses the solution)"
                )
            raise NotStarted("not started")
        if trouble.kind == "no file":
            raise NotOffered(trouble.message) if self.tree.library else NotStarted(trouble.message)
        if trouble.kind == "missing" and self.tree.library:
            raise NotOffered(f"{self.tree.name} does not offer {self.request.name}")
        if trouble.kind == "load" and self.tree.library and "ImportError" in trouble.bases:
            raise NotGradableHere(trouble.message)
        label = "wrong" if trouble.kind in ("load", "missing", "signature") else "got"
        explanation = self.explain(trouble.message, traceback=trouble.traceback, **{label: trouble.message})
        raise Unmet(explanation) from self.error

    def explain(self, reason: str, **parts: Any) -> Explanation:
        """An explanation that begins with the call."""
        printed = self.result.printed.strip()
        if len(printed) > 500:
            printed = printed[:500] + " …"
        called = show_call(self.request, self.result)
        if self.trouble is not None and self.trouble.kind in ("load", "missing", "no file"):
            called = ""
        note = f"your code left changed, and the grader put back: {'; '.join(self.result.left)}"
        return Explanation(reason, called=called, printed=printed, note=note if self.result.left else "", **parts)

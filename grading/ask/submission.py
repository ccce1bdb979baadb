"""The `submission` fixture: how a graded test asks a submission to do something and gets plain data back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from grading.ask.got import Got
from grading.ask.scenario import scenario_of
from grading.course.trees import Tree
from grading.data.plain import Inputs
from grading.data.request import Request
from grading.run.executors import Executor, run

if TYPE_CHECKING:
    from grading.ask.llm import ScriptedModel


class Submission:
    """One exercise of one tree, as a test sees it."""

    def __init__(self, tree: Tree, exercise: str, executor: Executor, **always: Any) -> None:
        """`always`: fields that every request gets, its seed, its time limit and its process."""
        self.tree, self.exercise, self.executor, self.always = tree, exercise, executor, always
        self.model: ScriptedModel | None = None  # that stands by, and hears what the submission asks
        self.observed: list[Got] = []  # in this test, in order

    def call(
        self, name: str, *args: Any, grad: bool | Iterable[Any] = False, cotangent: str = "normal", count: bool = False,
        **kwargs: Any,
    ) -> Got:  # fmt: skip
        """Call the function `name`.

        `grad`: True for gradients of every floating-point tensor among the arguments, or the tensors that want one.
        `cotangent`: the gradient from above, see `grading.data.request.cotangents`. `count`: count what it costs.
        """
        request = Request(name, args, kwargs, cotangent=cotangent, count=count)
        return self.ask(_with_grad(request, grad))

    def make(self, name: str, *args: Any, **kwargs: Any) -> Maker:
        """An object of the class `name`, made anew for each call."""
        return Maker(self, Request(name, init=(args, kwargs)))

    def run(self, scenario: Callable[..., Any], *args: Any, **kwargs: Any) -> Got:
        """Run `scenario(module, *args)`, a function of the test file, where the submission is.

        It sees its arguments and the imports at the top of its file except the grader's and the tests'; it returns
        plain data. Use it for what is longer than one call; what it returns is the submission's word.
        """
        return self.ask(Request(scenario.__name__, args, kwargs, scenario=scenario_of(scenario)))

    def ask(self, request: Request) -> Got:
        request = replace(request, model=self.model, **self.always)
        begun = time.perf_counter()
        result, error = run(self.executor, request, self.tree, self.exercise)
        got = Got(request, result, self.tree, self.exercise, error, time.perf_counter() - begun)
        self.observed.append(got)
        if result.trouble is not None and result.trouble.kind in ("unstarted", "no file", "load", "missing", "time"):
            got.require_answer()  # nothing that a test could want to look at
        return got


@dataclass(frozen=True)
class Maker:
    """How to make an object: `submission.make("Layer", 64).load(state).eval().call(x)`. Nothing runs before the end."""

    submission: Submission
    request: Request

    def load(self, state: dict[str, Any]) -> Maker:
        """Load this state dict."""
        return replace(self, request=replace(self.request, state=state))

    def to(self, *args: Any) -> Maker:
        """Move or convert as `torch.nn.Module.to` does, before the state is loaded."""
        return replace(self, request=replace(self.request, to=args))

    def train(self) -> Maker:
        return replace(self, request=replace(self.request, training=True))

    def eval(self) -> Maker:
        return replace(self, request=replace(self.request, training=False))

    def call(
        self, *args: Any, method: str | None = None, grad: bool | Iterable[Any] = False, cotangent: str = "normal",
        count: bool = False, **kwargs: Any,
    ) -> Got:  # fmt: skip
        """Make the object and call it, or one of its methods. `grad` also gives the gradients of its parameters."""
        request = replace(self.request, args=args, kwargs=kwargs, method=method, cotangent=cotangent, count=count)
        return self.submission.ask(_with_grad(request, grad))

    def state_dict(self) -> Got:
        """The state dict of the new object."""
        return self.call(method="state_dict")


def _with_grad(request: Request, grad: bool | Iterable[Any]) -> Request:
    if grad is False:
        return request
    chosen = Inputs(request.args, request.kwargs) if grad is True else grad
    numbers = {request.inputs.number(tensor) for tensor in chosen if grad is not True or tensor.is_floating_point()}
    return replace(request, grad=tuple(number for number in range(len(request.inputs)) if number in numbers))

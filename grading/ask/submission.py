"""The `submission` fixture: a graded test sends requests to a submission and gets plain data back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from grading.ask.got import Got
from grading.ask.scenario import scenario_of
from grading.course.trees import Tree
from grading.data.plain import Inputs
from grading.data.request import Request
from grading.data.result import Result, Trouble
from grading.run.executors import Executor, run

if TYPE_CHECKING:
    from grading.ask.llm import ScriptedModel


TIMEOUTS = 2  # calls of a function that may run out of time; further ones are not tried


@dataclass
class Known:
    """What earlier requests of a run have shown, so that nobody waits for it again."""

    unloadable: dict[tuple[Tree, str], Result] = field(default_factory=dict)  # exercises that do not import
    timeouts: Counter[tuple[Tree, str, str]] = field(default_factory=Counter)  # by exercise and name of the request

    def answer(self, request: Request, tree: Tree, exercise: str) -> Result | None:
        """The answer to a request that need not be tried."""
        if self.timeouts[tree, exercise, request.name] >= TIMEOUTS:
            message = f"not tried: {TIMEOUTS} earlier calls of {request.name} did not finish in time"
            return Result(trouble=Trouble("time", message))
        return self.unloadable.get((tree, exercise))

    def learn(self, request: Request, result: Result, tree: Tree, exercise: str) -> None:
        if result.trouble is not None and result.trouble.kind == "load":
            self.unloadable[tree, exercise] = result
        if result.trouble is not None and result.trouble.kind == "time":
            self.timeouts[tree, exercise, request.name] += 1


class Submission:
    """One exercise of one tree, as a test sees it."""

    def __init__(
        self, tree: Tree, exercise: str, executor: Executor, known: Known | None = None, **always: Any
    ) -> None:
        """`always`: the fields of every request: seed, time limit and process."""
        self.tree, self.exercise, self.executor, self.always = tree, exercise, executor, always
        self.known = known or Known()
        self.model: ScriptedModel | None = None  # which answers the submission meanwhile
        self.observed: list[Got] = []  # by this test, in order

    def call(
        self, name: str, *args: Any, grad: bool | Iterable[Any] = False, cotangent: str = "normal", count: bool = False,
        **kwargs: Any,
    ) -> Got:  # fmt: skip
        """Call the function `name`.

        `grad`: True for the gradients of all floating-point arguments, or the tensors whose gradients to compute.
        `cotangent`: the kind of output gradient, see `grading.data.request.cotangents`. `count`: count the cost.
        """
        request = Request(name, args, kwargs, cotangent=cotangent, count=count)
        return self.ask(_with_grad(request, grad))

    def make(self, name: str, *args: Any, **kwargs: Any) -> Maker:
        """An object of the class `name`, created anew for each call."""
        return Maker(self, Request(name, init=(args, kwargs)))

    def run(self, scenario: Callable[..., Any], *args: Any, **kwargs: Any) -> Got:
        """Run `scenario(module, *args)`, a function of the test file, in the submission's process.

        It can use its arguments, the definitions of its file, and the file's imports except those from `grading` and
        `tests`; it returns plain data. Use it for anything longer than one call. Its result is only as trustworthy as
        the submission, which runs in the same process.
        """
        return self.ask(Request(scenario.__name__, args, kwargs, scenario=scenario_of(scenario)))

    def ask(self, request: Request) -> Got:
        request = replace(request, model=self.model, **self.always)
        begun, error = time.perf_counter(), None
        result = self.known.answer(request, self.tree, self.exercise)
        if result is None:
            result, error = run(self.executor, request, self.tree, self.exercise)
            self.known.learn(request, result, self.tree, self.exercise)
        got = Got(request, result, self.tree, self.exercise, error, time.perf_counter() - begun)
        self.observed.append(got)
        if result.trouble is not None and result.trouble.kind in ("unstarted", "no file", "load", "missing", "time"):
            got.require_answer()  # there is nothing to inspect
        return got


@dataclass(frozen=True)
class Maker:
    """A recipe for an object: `submission.make("Layer", 64).load(state).eval().call(x)`. Only `call` runs anything."""

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
        """Create the object and call it or one of its methods. `grad` includes the gradients of its parameters."""
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

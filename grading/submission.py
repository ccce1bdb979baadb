"""The `submission` fixture: how a graded test asks a submission to do something and gets plain data back."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grading.execution import Executor, perform
from grading.explanation import Explanation, NotGradableHere, NotOffered, NotStarted, Unmet, show_call
from grading.request import Request, Result, Scenario, Trouble
from grading.trees import Tree

if TYPE_CHECKING:
    from grading.llm import ScriptedModel


@dataclass(frozen=True)
class Got:
    """What came back for one request. Reading `output` or `grads` of a request that failed fails the test."""

    request: Request
    result: Result
    tree: Tree
    exercise: str
    error: BaseException | None = None  # the submission's own exception, when it ran in this process
    elapsed: float = 0.0  # seconds until the result was here, by this process's clock

    @property
    def output(self) -> Any:
        self.settle()
        return self.result.output

    @property
    def counts(self) -> dict[str, int]:
        """What was counted, with `count=True`: see `grading.counters.Counts`."""
        self.settle()
        return self.result.counts

    @property
    def printed(self) -> str:
        return self.result.printed

    @property
    def trouble(self) -> Trouble | None:
        return self.result.trouble

    def grad(self, of: Any) -> Any:
        """The gradient of one tensor of the request, or of a parameter by name; None where none flows."""
        self.settle()
        key = of if isinstance(of, str) else self.number(of)
        return self.result.grads[key]

    def number(self, tensor: Any) -> int:
        for number, each in enumerate(self.request.tensors):
            if each is tensor:
                return number
        raise ValueError("this tensor is not part of the request")

    def settle(self) -> None:
        """Raise the verdict that follows where there is no answer."""
        trouble = self.result.trouble
        if trouble is None:
            return
        if trouble.kind == "unstarted":
            if self.tree.library:
                raise NotOffered(trouble.message or f"{self.tree.name} does not offer it")
            if trouble.exercise not in ("", self.exercise):
                raise NotStarted(
                    f"builds on {trouble.exercise}, which is not done (--prerequisites solutions lends the solution's)"
                )
            raise NotStarted("not started")
        if trouble.kind == "no file":
            raise NotOffered(trouble.message) if self.tree.library else NotStarted(trouble.message)
        if trouble.kind == "missing" and self.tree.library:
            raise NotOffered(f"{self.tree.name} offers no {self.request.name}")
        if trouble.kind == "load" and self.tree.library and "ImportError" in trouble.bases:
            raise NotGradableHere(trouble.message)
        raise Unmet(self.explain(trouble.message, came=trouble.message, traceback=trouble.traceback)) from self.error

    def explain(self, reason: str, **parts: Any) -> Explanation:
        """An explanation that begins with the call that was made."""
        printed = self.result.printed.strip()
        if len(printed) > 500:
            printed = printed[:500] + " …"
        called = show_call(self.request, self.result)
        if self.trouble is not None and self.trouble.kind in ("load", "missing", "no file"):
            called = ""
        return Explanation(reason, called=called, printed=printed, **parts)


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
        `cotangent`: the gradient from above, see `grading.request.cotangents`. `count`: count what it costs.
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
        return self.ask(Request(scenario.__name__, args, kwargs, scenario=_source_of(scenario)))

    def ask(self, request: Request) -> Got:
        request = replace(request, model=self.model, **self.always)
        begun = time.perf_counter()
        result, error = perform(self.executor, request, self.tree, self.exercise)
        got = Got(request, result, self.tree, self.exercise, error, time.perf_counter() - begun)
        self.observed.append(got)
        if result.trouble is not None and result.trouble.kind in ("unstarted", "no file", "load", "missing", "time"):
            got.settle()  # nothing that a test could want to look at
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
    from grading.plain import distinct_tensors

    if grad is True:
        arguments = {id(tensor) for tensor in distinct_tensors(request.args, request.kwargs)}
        chosen = [t for t in request.tensors if id(t) in arguments and t.is_floating_point()]
    else:
        chosen = list(grad)
    wanted = {id(tensor) for tensor in chosen}
    return replace(request, grad=tuple(n for n, tensor in enumerate(request.tensors) if id(tensor) in wanted))


@functools.cache
def _source_of(function: Callable[..., Any]) -> Scenario:
    """The function's source, with those imports of its file that it uses and that the other process may have."""
    filename = inspect.getsourcefile(function) or "<scenario>"
    lines, line = inspect.getsourcelines(function)
    used = {node.id for node in ast.walk(ast.parse(textwrap.dedent("".join(lines)))) if isinstance(node, ast.Name)}
    imports = ["from __future__ import annotations"]
    for statement in ast.parse(Path(filename).read_text("utf-8")).body:
        if isinstance(statement, ast.Import):
            kept = [alias for alias in statement.names if (alias.asname or alias.name.partition(".")[0]) in used]
        elif isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[0] not in (
            "grading",
            "tests",
        ):
            kept = [alias for alias in statement.names if (alias.asname or alias.name) in used]
        else:
            continue
        if kept and getattr(statement, "module", None) != "__future__":
            statement.names = kept
            imports.append(ast.unparse(statement))
    return Scenario(function.__name__, textwrap.dedent("".join(lines)), "\n".join(imports), filename, line)

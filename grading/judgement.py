"""Judges an answer: its structure, what it promises beside its numbers, and the numbers by the closeness rule.

Everything here happens on the judge's side, after the submission has run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from grading import closeness, plain
from grading.explanation import Unmet, show_shape, show_value
from grading.request import cotangents
from grading.submission import Got
from grading.where import describe_where, error_map

Named = dict[str, torch.Tensor]


def judge(
    got: Got,
    oracle: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    factor: float | None,
    alias: bool,
    writes: Sequence[Any],
    dims: Sequence[str] | None,
    dtypes: Sequence[torch.dtype | None] | None,
) -> None:
    """Raise Unmet unless the answer is what rounding can explain of `oracle(*args, **kwargs)`."""
    question = _Question(got, oracle, args, kwargs)
    right = question.structure()
    check_structure(got, got.output, right, dtypes=_expected_dtypes(question, right, dtypes))
    check_promises(got, alias=alias, writes=writes)
    answers = question.answers()
    comparison = closeness.compare(answers, question.solve, question.leaves, factor=factor)
    if comparison.ok:
        return
    worst = next(tensor for tensor in comparison.tensors if not tensor.ok)
    if worst.name in question.wanted and not any(facts.requires_grad for facts in got.result.facts):
        raise Unmet(
            got.explain(
                "no gradient flows through the output",
                expected=f"{worst.name}: {show_value(answers[worst.name])}",
                came="an output without a graph (computed under no_grad, detached, or with .data, .item())",
            )
        )
    names = _dims_of(worst.name, dims or getattr(oracle, "dims", None))
    raise Unmet(
        got.explain(
            f"{worst.name} is wrong: {worst.summary}",
            expected=f"{worst.name}: {show_value(answers[worst.name])} {worst.expected}",
            came=worst.came,
            where="\n".join([describe_where(worst.mask, names), *_overview(comparison.tensors)]),
            map=tuple(error_map(worst.mask, names)),
        )
    )


def _dims_of(name: str, dims: Any) -> Sequence[str] | None:
    """The names of an answer's dimensions, where `dims` is for one output, or a tuple of such for each of several."""
    if not dims:
        return None
    if name == "output":
        return dims if isinstance(dims[0], str) else dims[0]
    number = name.removeprefix("output[").removesuffix("]")
    return dims[int(number)] if number.isdecimal() and not isinstance(dims[0], str) else None


def _overview(tensors: Sequence[Any]) -> list[str]:
    """Which of several answers are right, where there is more than one."""
    if len(tensors) == 1:
        return []
    wrong = [tensor.name for tensor in tensors if not tensor.ok]
    right = [tensor.name for tensor in tensors if tensor.ok]
    return [f"wrong: {', '.join(wrong)}"] + ([f"right: {', '.join(right)}"] if right else [])


class _Question:
    """What was asked, as a function from the numbers that went in to the numbers that must come out."""

    def __init__(self, got: Got, oracle: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.got, self.oracle, self.args, self.kwargs = got, oracle, args, kwargs
        self.inputs = [t for t in plain.distinct_tensors(args, kwargs) if t.is_floating_point()]
        self.above: list[torch.Tensor] = []  # the gradients from above, one for each floating output
        self.wanted: dict[str, torch.Tensor] = {}  # the tensors whose gradients were asked for, by name
        if got.request.grad is not None:
            outputs = [t for t in plain.tensors_in(got.result.output) if t.is_floating_point()]
            self.above = cotangents(outputs, got.request.cotangent, got.request.seed)
            state = {id(tensor): name for name, tensor in (got.request.state or {}).items()}
            numbers = {id(tensor): number for number, tensor in enumerate(got.request.tensors)}
            for tensor in self.inputs:
                key = state.get(id(tensor), numbers.get(id(tensor)))
                if key is not None and key in got.result.grads:
                    self.wanted[f"gradient of {self._name(key)}"] = tensor

    @property
    def leaves(self) -> list[torch.Tensor]:
        """All numbers that the answer depends on: rounding one of them is what the closeness rule asks about."""
        return [*self.inputs, *self.above]

    def _name(self, key: int | str) -> str:
        if isinstance(key, str):
            return key
        request, names = self.got.request, list(self.got.result.parameters)
        tensor = request.tensors[key]
        for position, value in enumerate(request.args):
            if value is tensor:
                return names[position] if position < len(names) else f"argument {position + 1}"
        return next((name for name, value in request.kwargs.items() if value is tensor), f"tensor {key}")

    def structure(self) -> Any:
        """The reference's outputs, for their structure and shapes."""
        with torch.no_grad():
            return self._run([t.double() for t in self.inputs])

    def _run(self, inputs: Sequence[torch.Tensor]) -> Any:
        replaced = {id(old): new for old, new in zip(self.inputs, inputs, strict=True)}
        args, kwargs = plain.map_tensors((self.args, self.kwargs), lambda tensor: replaced.get(id(tensor), tensor))
        return self.oracle(*args, **kwargs)

    def solve(self, leaves: Sequence[torch.Tensor]) -> Named:
        """Outputs and gradients by name, computed by the oracle from these leaves, in the leaves' dtype."""
        inputs, above = list(leaves[: len(self.inputs)]), leaves[len(self.inputs) :]
        if not self.wanted:
            return named_tensors(self._run(inputs))
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        with torch.enable_grad():
            outputs = self._run(inputs)
        floating = [t for t in plain.tensors_in(outputs) if t.is_floating_point()]
        pairs = [(t, grad) for t, grad in zip(floating, above, strict=True) if t.requires_grad]
        where = {id(old): new for old, new in zip(self.inputs, inputs, strict=True)}
        wanted = [where[id(tensor)] for tensor in self.wanted.values()]
        named = named_tensors(plain.make_plain(outputs))
        grads: Sequence[torch.Tensor | None] = [None] * len(wanted)
        if pairs:
            tensors, gradients = zip(*pairs, strict=True)
            grads = torch.autograd.grad(tensors, wanted, gradients, allow_unused=True)
        for name, tensor, grad in zip(self.wanted, wanted, grads, strict=True):
            named[name] = torch.zeros_like(tensor) if grad is None else grad
        return named

    def answers(self) -> Named:
        """What the submission gave, by the same names; Unmet where a gradient is missing or has another shape."""
        named = named_tensors(self.got.output)
        for name, tensor in self.wanted.items():
            grad = self.got.grad(self._key(tensor))
            if grad is None:
                grad = torch.zeros_like(tensor)  # right where the reference is zero
            if grad.shape != tensor.shape or grad.dtype != tensor.dtype:
                expected, came = show_value(tensor), show_value(grad)
                raise Unmet(self.got.explain(f"{name} has another shape or dtype", expected=expected, came=came))
            named[name] = grad
        return named

    def _key(self, tensor: torch.Tensor) -> Any:
        for name, value in (self.got.request.state or {}).items():
            if value is tensor:
                return name
        return tensor


def named_tensors(outputs: Any) -> Named:
    """The tensors of an output: `output`, or `output[0]`, `output["name"]` where it is a container."""
    if isinstance(outputs, torch.Tensor):
        return {"output": outputs}
    named: Named = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            named[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{name}[{key!r}]")
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                walk(item, f"{name}[{number}]")

    walk(outputs, "output")
    return named


def _expected_dtypes(
    question: _Question, right: Any, dtypes: Sequence[torch.dtype | None] | None
) -> list[torch.dtype | None]:
    """The dtype of each tensor in the answer: the first input's for floating ones, unless the test says otherwise."""
    tensors = list(plain.tensors_in(right))
    if dtypes is not None:
        return list(dtypes)
    first = question.inputs[0].dtype if question.inputs else None
    return [first if tensor.is_floating_point() else tensor.dtype for tensor in tensors]


def check_structure(
    got: Got, answer: Any, right: Any, *, dtypes: Sequence[torch.dtype | None] | None = None, same_dtype: bool = False
) -> None:
    """Unmet unless the answer is built like `right`: the same containers, plain tensors, shapes and dtypes."""
    facts = iter(got.result.facts)
    expected_dtypes = iter(dtypes or ())

    def fail(reason: str, expected: str, came: str, name: str) -> None:
        prefix = "" if name == "output" else f"{name}: "
        raise Unmet(got.explain(f"{prefix}{reason}", expected=f"{prefix}{expected}", came=f"{prefix}{came}"))

    def walk(answer: Any, right: Any, name: str) -> None:
        if isinstance(right, torch.Tensor):
            dtype = next(expected_dtypes, None) or (right.dtype if same_dtype else None)
            wanted = f"a tensor {show_shape(right.shape)}" + (
                f" of {str(dtype).removeprefix('torch.')}" if dtype else ""
            )
            if not isinstance(answer, torch.Tensor):
                fail("no tensor was returned", wanted, f"{type_name(answer)}: {show_value(answer)}", name)
            seen = next(facts)
            if tuple(answer.shape) != tuple(right.shape):
                fail("the shape is another one", wanted, show_value(answer), name)
            if dtype is not None and answer.dtype != dtype:
                fail("the dtype is another one", wanted, show_value(answer), name)
            if seen.type != "Tensor":
                fail("this is no plain tensor", wanted, f"a {seen.type}", name)
            device = next((tensor.device.type for tensor in got.request.tensors), seen.device)
            if seen.device != device:
                fail("the tensor is on another device", f"a tensor on {device}", f"one on {seen.device}", name)
        elif isinstance(right, (tuple, list)):
            if not isinstance(answer, (tuple, list)) or len(answer) != len(right):
                expected = f"{len(right)} values: {show_value(right)}"
                fail("the answer has another form", expected, show_value(answer), name)
            for number, (inner, outer) in enumerate(zip(answer, right, strict=True)):
                walk(inner, outer, f"{name}[{number}]")
        elif isinstance(right, dict):
            if not isinstance(answer, dict) or set(answer) != set(right):
                fail("the answer has other keys", f"keys {sorted(right)}", _keys(answer), name)
            for key in answer:  # in the answer's order, as its facts are
                walk(answer[key], right[key], f"{name}[{key!r}]")
        elif right is None and answer is not None:
            fail("a value was returned where None is expected", "None", show_value(answer), name)

    walk(answer, right, "output")


def _keys(answer: Any) -> str:
    return (
        f"keys {sorted(map(str, answer))}" if isinstance(answer, dict) else f"{type_name(answer)}: {show_value(answer)}"
    )


def type_name(value: Any) -> str:
    return value.type if isinstance(value, plain.Opaque) else type(value).__name__


def check_promises(got: Got, *, alias: bool = False, writes: Sequence[Any] = ()) -> None:
    """Unmet where inputs were changed that should not be, or the answer shares memory with one."""
    allowed = {id(tensor) for tensor in writes}
    tensors = got.request.tensors
    question = _Question(got, lambda: None, (), {})
    for number in got.result.changed:
        if id(tensors[number]) not in allowed:
            name = question._name(number)
            raise Unmet(
                got.explain(
                    f"the call changed its argument {name}",
                    expected=f"{name} as it was",
                    came="other numbers in it (an in-place operation: +=, masked_fill_, softmax(out=…) …)",
                )
            )
    if alias:
        return
    for facts in got.result.facts:
        shared = [number for number in facts.aliases if id(tensors[number]) not in allowed]
        if shared:
            name = question._name(shared[0])
            raise Unmet(
                got.explain(
                    f"the answer shares memory with {name}",
                    expected="a new tensor",
                    came=f"a view of {name}: whoever changes the one changes the other",
                )
            )


def differing(answer: Any, right: Any) -> str:
    """Where plain data of the same structure differs, in words; empty where it is equal."""
    if isinstance(right, torch.Tensor):
        if torch.equal(answer, right):
            return ""
        both_nan = (
            answer.isnan() & right.isnan() if right.is_floating_point() else torch.zeros_like(right, dtype=torch.bool)
        )
        mask = (answer != right) & ~both_nan
        return describe_where(mask, None) if mask.any() else ""
    if isinstance(right, (tuple, list)):
        return next((where for pair in zip(answer, right, strict=True) if (where := differing(*pair))), "")
    if isinstance(right, dict):
        return next((f"{key!r}: {where}" for key in right if (where := differing(answer[key], right[key]))), "")
    return (
        ""
        if type(answer) is type(right) and answer == right
        else f"{show_value(answer)} instead of {show_value(right)}"
    )

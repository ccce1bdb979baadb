"""A request as a function from its input numbers to the numbers of the right answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from grading.ask.got import Got
from grading.data.plain import Inputs, make_plain, tensors_in
from grading.data.request import cotangents
from grading.explain.outcome import Unmet
from grading.explain.show import show_kind
from grading.judge.structure import Named, named_tensors


class Question:
    """The oracle with its arguments, and the gradients that were requested."""

    def __init__(self, got: Got, oracle: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.got, self.oracle, self.args, self.kwargs = got, oracle, args, kwargs
        self._inputs = Inputs(args, kwargs)  # of the oracle, numbered separately from the request's
        self._floating = [number for number, tensor in enumerate(self._inputs) if tensor.is_floating_point()]
        self.above: list[torch.Tensor] = []  # the cotangents, one for each floating-point output
        self.wanted: dict[str, tuple[int, int | str]] = {}  # gradients by name: input number, key in the result
        if got.request.grad is not None:
            outputs = [t for t in tensors_in(got.result.output) if t.is_floating_point()]
            self.above = cotangents(outputs, got.request.cotangent, got.request.seed)
            for number in self._floating:
                key = self._key(self._inputs[number])
                if key is not None:
                    name = key if isinstance(key, str) else got.name_of(key)
                    self.wanted[f"gradient of {name}"] = number, key

    def _key(self, tensor: torch.Tensor) -> int | str | None:
        """The key of the tensor's gradient in the result: a parameter's name or an input's number; None for none."""
        grads, request = self.got.result.grads, self.got.request
        names = (name for name, value in (request.state or {}).items() if value is tensor and name in grads)
        number = request.inputs.number(tensor)
        return next(names, number if number in grads else None)

    @property
    def inputs(self) -> list[torch.Tensor]:
        """The floating-point tensors among the oracle's arguments."""
        return [self._inputs[number] for number in self._floating]

    @property
    def leaves(self) -> list[torch.Tensor]:
        """Everything that the answer depends on; the closeness rule asks what rounding them would change."""
        return [*self.inputs, *self.above]

    def structure(self) -> Any:
        """The reference's outputs, for their structure and shapes."""
        with torch.no_grad():
            return self._run([t.double() for t in self.inputs])

    def _run(self, inputs: Sequence[torch.Tensor]) -> Any:
        by = dict(zip(self._floating, inputs, strict=True))
        args, kwargs = self._inputs.replaced((self.args, self.kwargs), by)
        return self.oracle(*args, **kwargs)

    def solve(self, leaves: Sequence[torch.Tensor]) -> Named:
        """Outputs and gradients by name, computed by the oracle from these leaves, in the leaves' dtype."""
        inputs, above = list(leaves[: len(self._floating)]), leaves[len(self._floating) :]
        if not self.wanted:
            return named_tensors(self._run(inputs))
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        with torch.enable_grad():
            outputs = self._run(inputs)
        floating = [t for t in tensors_in(outputs) if t.is_floating_point()]
        pairs = [(t, grad) for t, grad in zip(floating, above, strict=True) if t.requires_grad]
        wanted = [inputs[self._floating.index(number)] for number, _ in self.wanted.values()]
        named = named_tensors(make_plain(outputs))
        grads: Sequence[torch.Tensor | None] = [None] * len(wanted)
        if pairs:
            tensors, gradients = zip(*pairs, strict=True)
            grads = torch.autograd.grad(tensors, wanted, gradients, allow_unused=True)
        for name, tensor, grad in zip(self.wanted, wanted, grads, strict=True):
            named[name] = torch.zeros_like(tensor) if grad is None else grad
        return named

    def answers(self) -> Named:
        """The submission's answers by the same names. Unmet if a gradient has the wrong shape or dtype."""
        named = named_tensors(self.got.output)
        for name, (number, key) in self.wanted.items():
            tensor, grad = self._inputs[number], self.got.result.grads[key]
            if grad is None:
                grad = torch.zeros_like(tensor)  # right where the reference is zero
            if grad.shape != tensor.shape or grad.dtype != tensor.dtype:
                raise Unmet(
                    self.got.explain(
                        f"{name} has the wrong shape or dtype", expected=show_kind(tensor), got=show_kind(grad)
                    )
                )
            named[name] = grad
        return named

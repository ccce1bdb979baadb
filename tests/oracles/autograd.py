"""Reference for week2/autograd: the same programs on torch.autograd, in the dtype of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F


class Tensor:
    """The exercise's Tensor as a thin wrapper around torch's."""

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        tensor = data if isinstance(data, torch.Tensor) else torch.tensor(data, dtype=torch.float64)
        self.tensor = tensor.detach().clone().requires_grad_(requires_grad)

    @classmethod
    def _of(cls, tensor: torch.Tensor) -> Tensor:
        result = cls.__new__(cls)
        result.tensor = tensor
        return result

    @property
    def data(self) -> torch.Tensor:
        return self.tensor.detach()

    @property
    def grad(self) -> torch.Tensor | None:
        return self.tensor.grad

    def __add__(self, other: Any) -> Tensor:
        return self._of(self.tensor + _inside(other))

    def __mul__(self, other: Any) -> Tensor:
        return self._of(self.tensor * _inside(other))

    __radd__, __rmul__ = __add__, __mul__

    def __matmul__(self, other: Tensor) -> Tensor:
        return self._of(self.tensor @ other.tensor)

    def exp(self) -> Tensor:
        return self._of(self.tensor.exp())

    def log(self) -> Tensor:
        return self._of(self.tensor.log())

    def relu(self) -> Tensor:
        return self._of(self.tensor.relu())

    def tanh(self) -> Tensor:
        return self._of(self.tensor.tanh())

    def sum(self, dim: Any = None, keepdim: bool = False) -> Tensor:
        return self._of(self.tensor.sum(dim, keepdim=keepdim))

    def backward(self, gradient: torch.Tensor | None = None) -> None:
        torch.autograd.backward(self.tensor, gradient, retain_graph=True)

    def zero_grad(self) -> None:
        self.tensor.grad = None


def _inside(value: Any) -> Any:
    return value.tensor if isinstance(value, Tensor) else value


def sgd_train(parameters: list[Tensor], loss_fn: Callable[[], Tensor], steps: int, lr: float) -> list[float]:
    optimizer = torch.optim.SGD([parameter.tensor for parameter in parameters], lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn()
        loss.backward()
        losses.append(loss.tensor.item())
        optimizer.step()
    return losses


def run_program(
    program: str, leaves: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor] | None = None
) -> dict[str, Any]:
    """Run lines of Python; the value of the last one, and every leaf's gradient."""
    tensors = {name: Tensor(data, requires_grad=True) for name, data in leaves.items()}
    names = {"torch": torch, "Tensor": Tensor, "sgd_train": sgd_train, **tensors, **(others or {})}
    *lines, last = program.strip().splitlines()
    with torch.enable_grad():
        exec("\n".join(lines), names)
        answer = _plain(eval(last, names))
    return {"answer": answer, **{f"{name}.grad": tensor.grad for name, tensor in tensors.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value.data if isinstance(value, Tensor) else value


def swiglu(gate: torch.Tensor, up: torch.Tensor, above: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output, and the gradients for an incoming gradient `above`."""
    with torch.enable_grad():
        gate, up = gate.detach().requires_grad_(), up.detach().requires_grad_()
        output = F.silu(gate) * up
    of_gate, of_up = torch.autograd.grad(output, [gate, up], above)
    return {"output": output.detach(), "gradient of gate": of_gate, "gradient of up": of_up}


def swiglu_second(
    gate: torch.Tensor, up: torch.Tensor, above: torch.Tensor, above_gate: torch.Tensor, above_up: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The gradients of ⟨gradient of gate, above_gate⟩ + ⟨gradient of up, above_up⟩."""
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (gate, up, above)]
        first = torch.autograd.grad(F.silu(inputs[0]) * inputs[1], inputs[:2], inputs[2], create_graph=True)
        found = torch.autograd.grad(first, inputs, [above_gate, above_up])
    return dict(zip(("gate", "up", "above"), found, strict=True))

"""An oracle's gradients, for scenarios that differentiate a module themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def gradients_of(oracle: Callable[..., Any]) -> Callable[..., dict[str, Tensor]]:
    """The gradients of `oracle(state, *inputs, **options)`, as a function of `(above, state, *inputs, **options)`.

    `above` is the incoming gradient. The result has "gradient of NAME" for each tensor of the state dict, and for each
    floating-point input under its parameter's name.
    """
    names = list(inspect.signature(oracle).parameters)[1:]

    def gradients(above: Tensor, state: Mapping[str, Tensor], *inputs: Any, **options: Any) -> dict[str, Tensor]:
        state = {name: tensor.detach().requires_grad_() for name, tensor in state.items()}
        arguments = [leaf.detach().requires_grad_() if _is_floating(leaf) else leaf for leaf in inputs]
        leaves = state | {name: leaf for name, leaf in zip(names, arguments, strict=False) if _is_floating(leaf)}
        with torch.enable_grad():
            output = oracle(state, *arguments, **options)
        found = torch.autograd.grad(output, list(leaves.values()), above, materialize_grads=True)
        return {f"gradient of {name}": gradient for name, gradient in zip(leaves, found, strict=True)}

    return gradients


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()

"""Reverse-mode automatic differentiation: Baydin et al. 2018, "Automatic Differentiation in Machine Learning: a Survey"
(arXiv:1502.05767), section 3.2; and the gated layer of Shazeer 2020, "GLU Variants Improve Transformer"
(arXiv:2002.05202), as a function that PyTorch's own engine differentiates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch


class Tensor:
    """Numbers that know how they were computed, so that `backward` can differentiate what was computed from them.

    The operations below return Tensors again. Each means what it means for torch.Tensor, shapes and broadcasting
    included; both operands have one dtype. A result requires a gradient if one of its operands does. No operation
    writes to its operands, and a result has memory of its own. A graph lives as long as some tensor that was computed
    with it: what nobody holds any more can be freed.

    torch computes the numbers, and nothing else: no torch tensor in here ever requires a gradient, and no backward pass
    of torch's runs, neither `torch.autograd`'s nor `torch.func`'s. A class that hands the work to them earns nothing.

    Args:
        data: a torch.Tensor of float32 or float64 of any shape, () and empty ones as well, contiguous or not; whether
            it is copied is left open. Or a number, or a nested list of numbers, which become float32.
        requires_grad: whether `backward` is to leave a gradient in `grad`.

    Attributes:
        data: the numbers, a torch.Tensor.
        grad: None until a `backward` reaches this tensor. Then the sum of the gradients that arrived: a torch.Tensor of
            data's shape and dtype, with memory of its own that anybody may write to. Always None where requires_grad is
            False. Whether the results of operations keep a gradient too is left open.
        requires_grad: True or False.
        shape: data's shape.
    """

    def __init__(self, data: torch.Tensor | float | list[Any], requires_grad: bool = False) -> None:
        raise NotImplementedError

    @property
    def shape(self) -> torch.Size:
        """The size of each dimension."""
        raise NotImplementedError

    def __add__(self, other: Tensor | float) -> Tensor:
        """self + other, broadcast against each other; other may be a number."""
        raise NotImplementedError

    def __radd__(self, other: float) -> Tensor:
        """number + self."""
        raise NotImplementedError

    def __mul__(self, other: Tensor | float) -> Tensor:
        """self · other, number by number, broadcast against each other; other may be a number."""
        raise NotImplementedError

    def __rmul__(self, other: float) -> Tensor:
        """number · self."""
        raise NotImplementedError

    def __matmul__(self, other: Tensor) -> Tensor:
        """The matrix product of `torch.matmul`.

        (..., n, k) @ (..., k, m) -> (..., n, m), where the dimensions in front are broadcast against each other. A
        vector (k,) on the left is a row, on the right a column, and its dimension is missing in the result: two
        vectors give (), a matrix and a vector (..., n).
        """
        raise NotImplementedError

    def exp(self) -> Tensor:
        """e^x of each number."""
        raise NotImplementedError

    def log(self) -> Tensor:
        """The natural logarithm of each number: -inf of 0, NaN of a negative one (their derivatives are left open)."""
        raise NotImplementedError

    def relu(self) -> Tensor:
        """max(x, 0) of each number. The derivative at 0 is 0."""
        raise NotImplementedError

    def tanh(self) -> Tensor:
        """tanh x of each number, however large."""
        raise NotImplementedError

    def sum(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
        """The sum along one dimension, along several, or of all numbers.

        Args:
            dim: a dimension, or a tuple of one or more; negative ones count from the back. None: all of them.
            keepdim: whether the dimensions that were summed over stay, with size 1.
        """
        raise NotImplementedError

    def backward(self, gradient: torch.Tensor | None = None) -> None:
        """Add to `grad`, in every tensor made with requires_grad=True that self depends on, self included if it is one,

            Σ_i gradient_i ∂self_i / ∂x

        Each operation is differentiated once, however many ways lead to it, so that the time is linear in the number of
        operations. There may be tens of thousands in a row. The graph stays: backward may be called again, on this
        tensor or on another that shares operations with it, and what it adds is not affected by earlier calls.

        Args:
            gradient: of self's shape and dtype, left as it was. None means 1, for a tensor that holds exactly one
                number, whatever its shape.

        Raises:
            ValueError: self requires no gradient. gradient is None and self holds more or fewer numbers than one (the
                message names self's shape). gradient has another shape than self (the message names both).
        """
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Forget the gradient: `grad` is None again. Other tensors keep theirs."""
        raise NotImplementedError


class SwiGLU(torch.autograd.Function):
    """SwiGLU(gate, up) = silu(gate) · up, number by number, with silu(x) = x σ(x) = x / (1 + e^-x): `SwiGLU.apply`.

    Shazeer 2020, equation 6, without the matrix products: the middle of the feed-forward layer of Llama and its kin. To
    PyTorch's engine it is one node, whose backward is the derivative written by hand. No engine runs inside
    (`torch.autograd.grad`, `torch.func`), and the backward can itself be differentiated. Between forward and backward
    it keeps gate and up and no memory of its own.
    """

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """silu(gate) · up.

        Args:
            gate: of any shape, float16, bfloat16, float32 or float64, contiguous or not, of any size: ±1000 as well.
            up: of gate's shape and dtype.

        Returns:
            A new tensor of gate's shape and dtype.

        Raises:
            ValueError: the shapes differ; the message names both.
        """
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The gradients of gate and up.

        Args:
            grad_output: the gradient of the output, of its shape.

        Returns:
            Two tensors of gate's shape. What `ctx.needs_input_grad` says is not needed is not computed: None.
        """
        raise NotImplementedError


def sgd_train(parameters: list[Tensor], loss_fn: Callable[[], Tensor], steps: int, lr: float) -> list[float]:
    """Gradient descent: `steps` times θ ← θ - lr · ∂loss/∂θ for every parameter θ.

    Each step calls loss_fn once. Gradients do not add up over the steps, and those that the parameters bring along are
    dropped. A parameter that the loss does not depend on stays as it is.

    Args:
        parameters: tensors with requires_grad=True. Their `data` is written to in place: its memory stays the same.
        loss_fn: takes nothing; computes from the parameters, as they are at that moment, a tensor of one number.
        steps: how many, 0 as well.
        lr: the learning rate, a positive number.

    Returns:
        The loss before each step: `steps` numbers, Python floats. What the parameters have in `grad` afterwards is
        left open.
    """
    raise NotImplementedError

"""Reverse-mode automatic differentiation: Baydin et al. 2018, "Automatic Differentiation in Machine Learning: a Survey"
(arXiv:1502.05767), section 3.2; and the gated layer of Shazeer 2020, "GLU Variants Improve Transformer"
(arXiv:2002.05202), as a function that PyTorch's own engine differentiates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch


class Tensor:
    """Numbers that record how they were computed, so that `backward` can differentiate the computation.

    The operations below return Tensors and do what they do for torch.Tensor, shapes and broadcasting included; both
    operands have the same dtype. A result requires a gradient if any of its operands does. No operation writes to its
    operands, and a result has its own memory. A graph lives only as long as some tensor computed with it: once nothing
    refers to those tensors, it can be freed.

    torch only computes the numbers: no torch tensor in here ever requires a gradient, and neither `torch.autograd` nor
    `torch.func` runs a backward pass. A class that delegates to them earns nothing.

    Args:
        data: a float32 or float64 torch.Tensor of any shape, including () and empty ones, contiguous or not; copying it
            is optional. Or a number, or a nested list of numbers, which become float32.
        requires_grad: whether `backward` leaves a gradient in `grad`.

    Attributes:
        data: the numbers, a torch.Tensor.
        grad: None until a `backward` reaches this tensor, then the sum of the gradients that arrived: a torch.Tensor of
            data's shape and dtype, with its own memory, which anyone may write to. Always None if requires_grad is
            False. Results of operations may keep a gradient or not.
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
        """self · other, elementwise, broadcast against each other; other may be a number."""
        raise NotImplementedError

    def __rmul__(self, other: float) -> Tensor:
        """number · self."""
        raise NotImplementedError

    def __matmul__(self, other: Tensor) -> Tensor:
        """The matrix product of `torch.matmul`.

        (..., n, k) @ (..., k, m) -> (..., n, m), with the leading dimensions broadcast against each other. A vector
        (k,) is a row on the left and a column on the right, and its dimension is dropped from the result: two vectors
        give (), a matrix and a vector (..., n).
        """
        raise NotImplementedError

    def exp(self) -> Tensor:
        """e^x, elementwise."""
        raise NotImplementedError

    def log(self) -> Tensor:
        """The natural logarithm, elementwise: -inf for 0, NaN below (the derivatives there are unspecified)."""
        raise NotImplementedError

    def relu(self) -> Tensor:
        """max(x, 0), elementwise. The derivative at 0 is 0."""
        raise NotImplementedError

    def tanh(self) -> Tensor:
        """tanh x, elementwise, however large x is."""
        raise NotImplementedError

    def sum(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
        """The sum over one dimension, over several, or over all.

        Args:
            dim: a dimension, or a tuple of one or more; negative ones count from the end. None means all.
            keepdim: whether the summed dimensions are kept, with size 1.
        """
        raise NotImplementedError

    def backward(self, gradient: torch.Tensor | None = None) -> None:
        """Add to `grad` of every tensor made with requires_grad=True that self depends on, self included if it is one,

            Σ_i gradient_i ∂self_i / ∂x

        Each operation is differentiated once, however many paths lead to it, so the time is linear in the number of
        operations. A chain may be tens of thousands of operations long. The graph is kept: backward may be called
        again, on this tensor or on another that shares operations with it, and earlier calls do not affect what it
        adds.

        Args:
            gradient: of self's shape and dtype; not modified. None means 1, for a tensor that holds exactly one number,
                whatever its shape.

        Raises:
            ValueError: self does not require a gradient; gradient is None and self does not hold exactly one number
                (the message names self's shape); gradient's shape is not self's (the message names both).
        """
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Reset `grad` to None. Other tensors keep theirs."""
        raise NotImplementedError


class SwiGLU(torch.autograd.Function):
    """SwiGLU(gate, up) = silu(gate) · up, elementwise, with silu(x) = x σ(x) = x / (1 + e^-x): `SwiGLU.apply`.

    Shazeer 2020, equation 6, without the matrix products: the middle of the feed-forward layer of Llama and its
    relatives. To PyTorch's engine it is one node, whose backward is the derivative written by hand. No engine runs
    inside it (`torch.autograd.grad`, `torch.func`), and the backward is itself differentiable. Between forward and
    backward it keeps gate and up and no other memory.
    """

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """silu(gate) · up.

        Args:
            gate: any shape; float16, bfloat16, float32 or float64; contiguous or not; any magnitude, ±1000 included.
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
            Two tensors of gate's shape. A gradient that is not needed (`ctx.needs_input_grad`) is not computed: None.
        """
        raise NotImplementedError


def sgd_train(parameters: list[Tensor], loss_fn: Callable[[], Tensor], steps: int, lr: float) -> list[float]:
    """Gradient descent: `steps` times θ ← θ - lr · ∂loss/∂θ for every parameter θ.

    Each step calls loss_fn once. Gradients do not accumulate across steps, and any that the parameters already have are
    discarded. A parameter that the loss does not depend on stays unchanged.

    Args:
        parameters: tensors with requires_grad=True. Their `data` is updated in place: its memory stays the same.
        loss_fn: takes no arguments; computes a tensor of one number from the parameters' current values.
        steps: the number of steps, possibly 0.
        lr: the learning rate, a positive number.

    Returns:
        The loss before each step: `steps` Python floats. The parameters' `grad` afterwards is unspecified.
    """
    raise NotImplementedError

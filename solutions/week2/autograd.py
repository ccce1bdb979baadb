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
        self.data = data if isinstance(data, torch.Tensor) else torch.tensor(data, dtype=torch.float32)
        self.grad: torch.Tensor | None = None
        self.requires_grad = requires_grad
        # The operands that require a gradient, each with the function that maps this tensor's gradient to its own.
        self._edges: list[tuple[Tensor, _Pullback]] = []

    @property
    def shape(self) -> torch.Size:
        """The size of each dimension."""
        return self.data.shape

    def __add__(self, other: Tensor | float) -> Tensor:
        """self + other, broadcast against each other; other may be a number."""
        other = self._operand(other)
        return _result(self.data + other.data, (self, lambda g: g), (other, lambda g: g))

    def __radd__(self, other: float) -> Tensor:
        """number + self."""
        return self + other

    def __mul__(self, other: Tensor | float) -> Tensor:
        """self · other, elementwise, broadcast against each other; other may be a number."""
        other = self._operand(other)
        return _result(self.data * other.data, (self, lambda g: g * other.data), (other, lambda g: g * self.data))

    def __rmul__(self, other: float) -> Tensor:
        """number · self."""
        return self * other

    def __matmul__(self, other: Tensor) -> Tensor:
        """The matrix product of `torch.matmul`.

        (..., n, k) @ (..., k, m) -> (..., n, m), with the leading dimensions broadcast against each other. A vector
        (k,) is a row on the left and a column on the right, and its dimension is dropped from the result: two vectors
        give (), a matrix and a vector (..., n).
        """
        row, column = self.data.ndim == 1, other.data.ndim == 1
        a = self.data.unsqueeze(-2) if row else self.data  # (..., n, k)
        b = other.data.unsqueeze(-1) if column else other.data  # (..., k, m)

        def matrix(g: torch.Tensor) -> torch.Tensor:
            """The result's gradient as (..., n, m)."""
            g = g.unsqueeze(-1) if column else g
            return g.unsqueeze(-2) if row else g

        def to_left(g: torch.Tensor) -> torch.Tensor:
            gradient = matrix(g) @ b.mT  # (..., n, k)
            return gradient.squeeze(-2) if row else gradient

        def to_right(g: torch.Tensor) -> torch.Tensor:
            gradient = a.mT @ matrix(g)  # (..., k, m)
            return gradient.squeeze(-1) if column else gradient

        return _result(self.data @ other.data, (self, to_left), (other, to_right))

    def exp(self) -> Tensor:
        """e^x, elementwise."""
        result = self.data.exp()
        return _result(result, (self, lambda g: g * result))

    def log(self) -> Tensor:
        """The natural logarithm, elementwise: -inf for 0, NaN below (the derivatives there are unspecified)."""
        return _result(self.data.log(), (self, lambda g: g / self.data))

    def relu(self) -> Tensor:
        """max(x, 0), elementwise. The derivative at 0 is 0."""
        return _result(self.data.relu(), (self, lambda g: g * (self.data > 0)))

    def tanh(self) -> Tensor:
        """tanh x, elementwise, however large x is."""
        result = self.data.tanh()
        return _result(result, (self, lambda g: g * (1 - result * result)))

    def sum(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
        """The sum over one dimension, over several, or over all.

        Args:
            dim: a dimension, or a tuple of one or more; negative ones count from the end. None means all.
            keepdim: whether the summed dimensions are kept, with size 1.
        """
        kept = self.data.sum(dim, keepdim=True)
        result = kept if keepdim else self.data.sum(dim)
        return _result(result, (self, lambda g: g.reshape(kept.shape).expand(self.shape)))

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
        if not self.requires_grad:
            raise ValueError("backward starts from a tensor that requires a gradient; this one has requires_grad=False")
        if gradient is None:
            if self.data.numel() != 1:
                raise ValueError(f"gradient must be given for a tensor of shape {tuple(self.shape)}, not None")
            gradient = torch.ones_like(self.data)
        elif gradient.shape != self.shape:
            raise ValueError(f"gradient has shape {tuple(gradient.shape)}, but the tensor has {tuple(self.shape)}")
        gradients = {self: gradient}  # what has arrived so far
        for tensor in _users_first(self):
            above = gradients.pop(tensor)  # complete: all users of this tensor have been visited
            if not tensor._edges:
                tensor.grad = above.clone() if tensor.grad is None else tensor.grad + above
            for operand, pull_back in tensor._edges:
                part = _sum_to(pull_back(above), operand.shape)
                gradients[operand] = gradients[operand] + part if operand in gradients else part

    def zero_grad(self) -> None:
        """Reset `grad` to None. Other tensors keep theirs."""
        self.grad = None

    def _operand(self, other: Tensor | float) -> Tensor:
        """The other operand; a number becomes a constant of this tensor's dtype."""
        return other if isinstance(other, Tensor) else Tensor(self.data.new_tensor(other))


_Pullback = Callable[[torch.Tensor], torch.Tensor]  # the gradient of a result -> the gradient of one of its operands


def _result(data: torch.Tensor, *edges: tuple[Tensor, _Pullback]) -> Tensor:
    """The result of an operation, with edges to the operands that require a gradient."""
    result = Tensor(data)
    result._edges = [edge for edge in edges if edge[0].requires_grad]
    result.requires_grad = bool(result._edges)
    return result


def _sum_to(gradient: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The transpose of broadcasting: a number that was copied gets the sum of its copies' gradients."""
    new = gradient.ndim - len(shape)  # leading dimensions that broadcasting added
    stretched = [dim for dim, size in enumerate(shape, new) if size == 1 != gradient.shape[dim]]
    dims = [*range(new), *stretched]
    return gradient.sum(dims, keepdim=True).reshape(shape) if dims else gradient


def _users_first(root: Tensor) -> Iterator[Tensor]:
    """root and every tensor it was computed from, each after all the tensors that use it.

    Depth-first search finishes a tensor after all of its operands; reversed, that is the order needed. The stack is
    explicit because Python's own holds only about a thousand calls.
    """
    finished, seen, stack = [], set(), [(root, False)]
    while stack:
        tensor, operands_done = stack.pop()
        if operands_done:
            finished.append(tensor)
        elif tensor not in seen:
            seen.add(tensor)
            stack.append((tensor, True))
            stack += [(operand, False) for operand, _ in tensor._edges]
    return reversed(finished)


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
        if gate.shape != up.shape:
            raise ValueError(f"gate and up must have the same shape, not {tuple(gate.shape)} and {tuple(up.shape)}")
        ctx.save_for_backward(gate, up)
        return gate * torch.sigmoid(gate) * up

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The gradients of gate and up.

        Args:
            grad_output: the gradient of the output, of its shape.

        Returns:
            Two tensors of gate's shape. A gradient that is not needed (`ctx.needs_input_grad`) is not computed: None.
        """
        gate, up = ctx.saved_tensors
        sigmoid = torch.sigmoid(gate)
        grad_gate = grad_up = None
        if ctx.needs_input_grad[0]:
            grad_gate = grad_output * up * sigmoid * (1 + gate * (1 - sigmoid))
        if ctx.needs_input_grad[1]:
            grad_up = grad_output * gate * sigmoid
        return grad_gate, grad_up


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
    losses = []
    for _ in range(steps):
        for parameter in parameters:
            parameter.zero_grad()
        loss = loss_fn()
        loss.backward()
        losses.append(loss.data.item())
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.data -= lr * parameter.grad
    return losses

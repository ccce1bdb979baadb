"""The effect of rounding on a reference: Monte Carlo arithmetic (Parker 1997), for the spread of the closeness rule."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from grading.data.wire import encode

aten = torch.ops.aten
NO_SPREAD = (torch.zeros(()), torch.zeros(()))


def detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}


Spreads = dict[str, tuple[Tensor, Tensor]]
_drawn: dict[bytes, Spreads] = {}


def spreads(
    solve: Callable[[Sequence[Tensor]], Mapping[str, Tensor]],
    exact: Sequence[Tensor],
    reference: Mapping[str, Tensor],
    precision: torch.dtype,
) -> Spreads:
    """The spreads that `_draw` finds, cached in this process: `check` asks hundreds of submissions the same."""
    question = [[leaf.detach() for leaf in exact], dict(reference), precision]
    key = hashlib.sha256(encode(question)).digest()
    if key not in _drawn:
        _drawn[key] = _draw(solve, exact, reference, precision)
    return _drawn[key]


def _draw(
    solve: Callable[[Sequence[Tensor]], Mapping[str, Tensor]],
    exact: Sequence[Tensor],
    reference: Mapping[str, Tensor],
    precision: torch.dtype,
) -> Spreads:
    """The largest change and the largest mean change that rounding made in each slice, for each floating tensor."""
    floating = {name: right for name, right in reference.items() if right.is_floating_point() and right.numel()}
    spreads = dict.fromkeys(floating, NO_SPREAD)
    if not floating:
        return spreads
    # The effect of rounding to float64 is invisible in float64; that of float32 is the same, 2^29 times larger.
    drawn = torch.float32 if precision is torch.float64 else precision
    scale = torch.finfo(precision).eps / torch.finfo(drawn).eps
    # Small slices need many draws to show their spread.
    smallest = min(slices(right).shape[1] for right in floating.values())
    for draw in range(min(max(4, 64 // smallest), 16)):
        with Rounding(drawn, random.Random(draw)):
            rounded = detached(solve(exact))
        for name, right in floating.items():
            change = slices((rounded[name] - right).abs() * scale).nan_to_num(0, posinf=0)  # overflow is not spread
            largest, mean = spreads[name]
            spreads[name] = torch.maximum(largest, change.amax(1)), torch.maximum(mean, change.mean(1))
    return spreads


def slices(tensor: Tensor) -> Tensor:
    """(slices, numbers in each): a slice is the last two dimensions, or all if there are fewer."""
    return tensor.reshape(math.prod(tensor.shape[:-2]), -1)


class Rounding(TorchDispatchMode):
    """Monte Carlo arithmetic: operations in float64 on operands rounded to `dtype`, forward and backward.

    Each operand x becomes round(c x) / c with its own random c. The error is thus a real rounding error; equal numbers
    stay equal, zeros stay zero, and numbers too large for `dtype` stay unchanged. Operands that do not depend on the
    leaves are rounded to float32.
    """

    def __init__(self, dtype: torch.dtype, generator: random.Random) -> None:
        super().__init__()
        self.dtype, self.generator = dtype, generator

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; shielding every operation from Dynamo would import it, which takes a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _SOFTMAX:
            return _SOFTMAX[func](self.rounded, *args)
        if func.overloadpacket not in _EXACT:
            arguments = func._schema.arguments  # those with alias_info are viewed or written, not computed with
            args = tuple(
                arg if spec.alias_info else self.rounded(arg) for spec, arg in zip(arguments, args, strict=False)
            )
        return func(*args, **(kwargs or {}))

    def rounded(self, x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return [self.rounded(item) for item in x]
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        constant = torch.is_grad_enabled() and not x.requires_grad  # it does not depend on the leaves
        c = self.generator.uniform(0.5, 1)
        y = (x * c).to(torch.float32 if constant else self.dtype).to(x.dtype) / c
        return torch.where(y.isfinite(), y, x)


# These operations do not round, and with rounded operands they might decide differently.
_DECIDING = "eq ne lt le gt ge floor ceil round trunc"
_SELECTING = "max min amax amin argmax argmin topk sort kthvalue"
_MOVING = "where masked_fill cat stack clone index gather index_select flip roll repeat _to_copy"
_EXACT = frozenset(getattr(aten, name) for name in f"{_DECIDING} {_SELECTING} {_MOVING}".split())
Rounded = Callable[[Tensor], Tensor]


def _softmax(rounded: Rounded, x: Tensor, dim: int, *_: Any) -> Tensor:
    return torch.exp(_log_softmax(rounded, x, dim))


def _log_softmax(rounded: Rounded, x: Tensor, dim: int, *_: Any) -> Tensor:
    return rounded(x) - rounded(torch.logsumexp(x, dim, keepdim=True))


def _softmax_backward(rounded: Rounded, dp: Tensor, p: Tensor, dim: int, *_: Any) -> Tensor:
    weighted, largest = rounded(dp) * rounded(p), dp.abs().amax(dim, keepdim=True)
    # A submission may compute this sum as sum(dO O), whose terms and errors are as large as the largest dP.
    delta = weighted.sum(dim, keepdim=True) + (rounded(largest) - largest)
    return rounded(weighted) - rounded(p) * delta


def _log_softmax_backward(rounded: Rounded, dy: Tensor, y: Tensor, dim: int, *_: Any) -> Tensor:
    return rounded(dy) - torch.exp(rounded(y)) * rounded(rounded(dy).sum(dim, keepdim=True))


_SOFTMAX: dict[Any, Callable[..., Tensor]] = {
    aten._softmax.default: _softmax,
    aten._log_softmax.default: _log_softmax,
    aten._softmax_backward_data.default: _softmax_backward,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
}

"""Averages: the exercise that the grader's own tests grade."""

from __future__ import annotations

import torch


def weighted_mean(x: torch.Tensor, weights: torch.Tensor | None = None, dim: int = -1) -> torch.Tensor:
    """The mean of x along one dimension, each number as important as its weight says.

    Args:
        x: (..., n), float.
        weights: (n,), of x's dtype; None weighs all alike.

    Returns:
        x without dimension `dim`, of x's dtype. 0 where all weights are 0.

    Raises:
        ValueError: weights has another length than x.
    """
    if weights is None:
        weights = torch.ones_like(x[..., :1]).expand_as(x) if dim == -1 else torch.ones_like(x)
    elif weights.shape[-1] != x.shape[dim]:
        raise ValueError(f"weights has length {weights.shape[-1]}, x has {x.shape[dim]} numbers")
    elif dim != -1:
        weights = weights.unsqueeze(-1)
    total = weights.sum(dim)
    return _divide((x * weights).sum(dim), total)


class Centred(torch.nn.Module):
    """x minus its mean, times a gain (size,)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., size) -> (..., size)."""
        return (x - weighted_mean(x).unsqueeze(-1)) * self.gain


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b)).to(a.dtype)

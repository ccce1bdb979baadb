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
    raise NotImplementedError


class Centred(torch.nn.Module):
    """x minus its mean, times a gain (size,)."""

    def __init__(self, size: int) -> None:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., size) -> (..., size)."""
        raise NotImplementedError

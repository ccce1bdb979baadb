"""Reference for fits of power laws: the exponent and its 95% confidence interval, by matrix algebra and integration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def fit(lengths: Sequence[float], costs: Sequence[float]) -> tuple[float, float, float]:
    """(exponent, low, high): the normal equations of y = X β, and the standard error from (XᵀX)⁻¹ s²."""
    x, y = torch.tensor(lengths, dtype=torch.float64).log(), torch.tensor(costs, dtype=torch.float64).log()
    design = torch.stack([torch.ones_like(x), x], dim=1)
    inverse = torch.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    freedom = len(x) - 2
    variance = ((y - design @ beta) ** 2).sum() / freedom
    margin = t_quantile(freedom) * math.sqrt(variance * inverse[1, 1])
    exponent = beta[1].item()
    return exponent, exponent - margin, exponent + margin


def t_quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's t: its density, with t = √ν tan θ, is proportional to cos^(ν−1) θ."""
    theta = torch.linspace(0, math.pi / 2, 200_001, dtype=torch.float64)
    area = torch.cumulative_trapezoid(theta.cos().clamp(min=0) ** (freedom - 1), theta)
    area = area / area[-1]
    at = int(torch.searchsorted(area, 0.95))
    share = (0.95 - area[at - 1]) / (area[at] - area[at - 1])
    angle = theta[at] + share * (theta[at + 1] - theta[at])
    return math.sqrt(freedom) * math.tan(angle)

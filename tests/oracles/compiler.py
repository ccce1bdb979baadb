"""Reference for week2/compiler: its functions as plain formulas."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean where mask is True; 0, with gradient 0, if it is True nowhere."""
    return x[mask].sum() / max(int(mask.sum()), 1)


def clip_by_norm(x: Tensor, max_norm: float) -> Tensor:
    """x · max_norm / norm if the norm exceeds max_norm, otherwise a copy of x."""
    norm = (x * x).sum().sqrt()
    return x * (max_norm / norm) if norm > max_norm else x.clone()


def steps_until(x: Tensor, limit: float, max_steps: int) -> tuple[Tensor, Tensor]:
    """x · 2^steps, with the fewest steps that bring the largest absolute value to limit, but at most max_steps."""
    steps = 0
    while steps < max_steps and bool((x.detach() * 2**steps).abs().max() < limit):
        steps += 1
    return x * 2**steps, torch.tensor(steps)


def tanh_product(x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three results that share their intermediate values; `scale` needs no gradient in the tests."""
    hidden = torch.tanh(x @ weight) * scale
    return hidden.sum(1), hidden.exp(), (weight * weight).sum()


def attention_block(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Causal attention of x to itself, and a gated projection of its output."""
    scores = (x @ x.mT) * x.size(-1) ** -0.5
    hidden = torch.softmax(scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf), -1) @ x
    projected = hidden @ weight.mT + bias
    return hidden, projected * torch.sigmoid(projected)


def normalized_mlp(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer norm without parameters, a linear layer, GELU, and the logarithm of a softmax."""
    centred = x - x.mean(-1, keepdim=True)
    normal = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    projected = normal @ weight.mT + bias
    return torch.log_softmax(projected * 0.5 * (1 + torch.erf(projected / 2**0.5)), -1)


def two_layers(x: Tensor, weight_1: Tensor, bias_1: Tensor, weight_2: Tensor, bias_2: Tensor) -> Tensor:
    """relu(relu(x W₁ᵀ + b₁) W₂ᵀ + b₂)"""
    return torch.clamp(torch.clamp(x @ weight_1.mT + bias_1, min=0) @ weight_2.mT + bias_2, min=0)

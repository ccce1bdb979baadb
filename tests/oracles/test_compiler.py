"""The oracles of the compiler exercise agree with PyTorch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from tests.oracles import compiler as oracle


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_masked_mean():
    x = normal(4, 5)
    assert_close(oracle.masked_mean(x, x > 0), torch.masked.mean(x, mask=x > 0))
    assert oracle.masked_mean(x, x > 100) == 0


def test_clip_by_norm():
    x = normal(4, 5)
    for max_norm in (0.5, 100.0):
        parameter = nn.Parameter(torch.zeros(4, 5, dtype=torch.float64))
        parameter.grad = x.clone()
        nn.utils.clip_grad_norm_([parameter], max_norm)
        assert_close(oracle.clip_by_norm(x, max_norm), parameter.grad, rtol=1e-5, atol=0)  # it adds 1e-6 to the norm


def test_steps_until():
    x = torch.tensor([1.5, -3.0])
    for limit, max_steps in ((20.0, 9), (20.0, 2), (3.0, 9), (24.0, 9)):
        found, steps = torch.while_loop(
            lambda x, steps, limit=limit, most=max_steps: (x.abs().max() < limit) & (steps < most),
            lambda x, steps: (x * 2, steps + 1),
            (x, torch.tensor(0)),
        )
        assert_close(oracle.steps_until(x, limit, max_steps), (found, steps))


def test_attention_block():
    x, weight, bias = normal(2, 6, 8), normal(5, 8), normal(5)
    hidden = F.scaled_dot_product_attention(x, x, x, is_causal=True)
    assert_close(oracle.attention_block(x, weight, bias), (hidden, F.silu(F.linear(hidden, weight, bias))))


def test_normalized_mlp():
    x, weight, bias = normal(2, 6, 8), normal(5, 8), normal(5)
    right = F.log_softmax(F.gelu(F.linear(F.layer_norm(x, [8]), weight, bias)), -1)
    assert_close(oracle.normalized_mlp(x, weight, bias), right)


def test_two_layers():
    x, weights = normal(5, 4), (normal(6, 4), normal(6), normal(3, 6), normal(3))
    right = F.relu(F.linear(F.relu(F.linear(x, *weights[:2])), *weights[2:]))
    assert_close(oracle.two_layers(x, *weights), right)

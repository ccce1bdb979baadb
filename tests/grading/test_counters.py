"""Counts of computations whose cost is known exactly."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from grading.run.counters import count

B, H, L, S, D = 2, 3, 8, 12, 4
FLOAT = 4  # bytes


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(query @ key.mT / math.sqrt(query.size(-1)), -1) @ value


@pytest.fixture
def qkv():
    return tuple(torch.randn(B, H, length, D, requires_grad=True) for length in (L, S, S))


def test_a_matrix_product_costs_2mnk():
    m, k, n = 5, 7, 11
    with count() as counts:
        torch.ones(m, k) @ torch.ones(k, n)
    assert counts.flops == 2 * m * n * k
    assert counts.ops["aten.mm"] == 1


def test_elementwise_work_is_no_flop():
    with count() as counts:
        torch.ones(100).exp().sum()
    assert counts.flops == 0


def test_attention_costs_4BHLSD_forward_and_twice_that_backward(qkv):
    forward = 4 * B * H * L * S * D
    with count() as counts:
        output = attention(*qkv)
    assert counts.flops == forward
    with count() as counts:
        output.sum().backward()
    assert counts.flops == 2 * forward


def test_the_fused_attention_of_the_cpu_recomputes_the_scores_in_its_backward(qkv):
    forward = 4 * B * H * L * S * D
    with count() as counts:
        output = F.scaled_dot_product_attention(*qkv)
    assert counts.flops == forward
    assert counts.largest_intermediate_numel == B * H * L * D, "it stores no scores"
    with count() as counts:
        output.sum().backward()
    assert counts.flops == 2.5 * forward


def test_attention_makes_and_keeps_its_scores(qkv):
    with count(exclude=qkv) as counts:
        output = attention(*qkv)
    assert counts.largest_intermediate_numel == B * H * L * S
    assert counts.largest_intermediate_bytes == B * H * L * S * FLOAT
    assert counts.saved_bytes == B * H * L * S * FLOAT, "the weights, once for softmax and for the product with V"
    assert counts.held_bytes == counts.saved_bytes + output.nbytes


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_autograd_the_same_is_computed_and_nothing_saved(qkv, mode):
    with mode(), count() as counts:
        attention(*qkv)
    assert counts.flops == 4 * B * H * L * S * D
    assert counts.largest_intermediate_numel == B * H * L * S
    assert counts.saved_bytes == counts.held_bytes == 0


def test_views_and_in_place_operations_allocate_nothing():
    x = torch.zeros(6, 10)
    with count() as counts:
        x.mT.reshape(10, 6)[2:].unsqueeze(0).expand(50, 8, 6)
        x.add_(1).mul_(x)
        x[0] = 3
    assert counts.largest_intermediate_bytes == 0


def test_a_copy_allocates_all_of_its_numbers():
    x = torch.zeros(6, 10, dtype=torch.float16)
    with count() as counts:
        x.mT.contiguous()
        x[:3].double()
    assert (counts.largest_intermediate_numel, counts.largest_intermediate_bytes) == (60, 30 * 8)


def test_a_sum_in_chunks_never_makes_the_whole():
    x = torch.ones(64, 100)
    with count() as whole:
        (x * x).sum()
    with count() as chunked:
        sum((chunk * chunk).sum() for chunk in x.split(8))
    assert whole.largest_intermediate_numel == 6400
    assert chunked.largest_intermediate_numel == 800


def test_what_autograd_saves_is_counted_once():
    x = torch.ones(1000, requires_grad=True)
    with count(exclude=[x]) as counts:
        x.exp().sum()
    assert counts.saved_bytes == 1000 * FLOAT, "exp saves its result"
    with count(exclude=[x]) as counts:
        y = x.exp()
        y.sin() * y.view(10, 100).flatten()
    assert counts.saved_bytes == 2 * 1000 * FLOAT, "y and sin y; a view of y is y"
    with count() as counts:
        x.exp() * x
    assert counts.saved_bytes == 2 * 1000 * FLOAT, "x too, unless it is excluded"


def test_views_of_what_is_excluded_are_excluded():
    x = torch.ones(1000, requires_grad=True)
    with count(exclude=[x]) as counts:
        x.view(10, 100)[2:].sin()
    assert counts.saved_bytes == 0


class Square(torch.autograd.Function):
    """x², with the tensors for backward saved the regular way or hidden from autograd."""

    @staticmethod
    def forward(ctx, x, hidden):
        doubled = 2 * x
        if hidden:
            ctx.doubled = doubled
        else:
            ctx.save_for_backward(doubled)
        return x * x

    @staticmethod
    def backward(ctx, above):
        (doubled,) = ctx.saved_tensors or (ctx.doubled,)
        return doubled * above, None


@pytest.mark.parametrize("hidden", [False, True])
def test_what_a_function_keeps_is_seen_also_where_it_bypasses_autograd(hidden):
    x = torch.ones(1000, requires_grad=True)
    with count(exclude=[x]) as counts:
        y = Square.apply(x, hidden)
        y.backward(torch.ones(1000))
    assert counts.saved_bytes == (0 if hidden else 1000 * FLOAT)
    assert counts.held_bytes == 3 * 1000 * FLOAT, "2x, the output and the output's gradient"
    assert torch.equal(x.grad, torch.full((1000,), 2.0))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_recomputation_saves_nothing_but_computes_twice(use_reentrant):
    x = torch.ones(1000, requires_grad=True)
    with count(exclude=[x]) as counts:
        checkpoint(lambda x: (x.exp() * x).sin().sum(), x, use_reentrant=use_reentrant).backward()
    assert counts.saved_bytes == 0
    assert counts.held_bytes < 1000 * FLOAT
    assert counts.ops["aten.exp"] == 2


def test_the_graph_is_freed_after_counting():
    x = torch.ones(1000, requires_grad=True)
    with count(exclude=[x]) as counts:
        x.exp().sum()
    assert counts.held_bytes == 0


def test_counting_changes_no_result(qkv):
    expected = torch.autograd.grad(attention(*qkv).sum(), qkv)
    with count():
        counted = torch.autograd.grad(attention(*qkv).sum(), qkv)
    assert all(torch.equal(a, b) for a, b in zip(expected, counted, strict=True))


def test_second_derivatives_still_work():
    x = torch.ones(3, requires_grad=True)
    with count():
        (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(second, torch.full((3,), 6.0))


def test_the_same_counts_every_time(qkv):
    figures = []
    for _ in range(2):
        with count(exclude=qkv) as counts:
            torch.autograd.grad(attention(*qkv).sum(), qkv)
        figures.append(counts.figures())
    assert figures[0] == figures[1]


def test_figures_are_plain_numbers():
    with count() as counts:
        torch.ones(2, 2) @ torch.ones(2, 2)
    figures = counts.figures()
    assert json.loads(json.dumps(figures)) == figures
    assert (figures["flops"], figures["ops"], figures["aten.mm"]) == (16, 3, 1)


def test_gradients_of_a_module():
    """From torch.autograd.grad, with respect to parameters and an input that is a leaf."""
    module, x = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.randn(3, 4, requires_grad=True)
    with count() as counts:
        torch.autograd.grad(module(x).sum(), [x, *module.parameters()])
    assert counts.flops == 3 * 2 * 3 * (4 * 8 + 8 * 2)  # forward, and twice that backward

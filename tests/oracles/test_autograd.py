"""The oracle of week2/autograd agrees with torch.autograd on torch's tensors and with finite differences."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from tests.oracles import autograd as oracle


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


EXPRESSIONS = [
    "(x * y + 2).tanh() + 0.5 * x",
    "(x @ y.sum(0) + 1) * 3",
    "(x * x + 1).log().sum(1, keepdim=True) @ y",
    "x.relu().sum() * (1 + y.exp()).sum((0, 1))",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_program_means_the_same_on_plain_torch_tensors(expression: str) -> None:
    x, y = normal(4, 3), normal(1, 3, seed=1)
    ours = oracle.run_program(f"z = {expression}\nz.sum().backward()\nz", {"x": x, "y": y})
    x, y = x.requires_grad_(), y.requires_grad_()
    theirs = eval(expression, {"x": x, "y": y})
    theirs.sum().backward()
    assert_close(ours, {"answer": theirs.detach(), "x.grad": x.grad, "y.grad": y.grad})


def test_a_graph_stays_and_gradients_add_up() -> None:
    x, above = normal(3), normal(3, seed=1)
    program = "u = x.exp()\nu.backward(above)\n(u * u).backward(above)\nu"
    found = oracle.run_program(program, {"x": x}, {"above": above})
    assert_close(found["x.grad"], above * (x.exp() + 2 * (2 * x).exp()))
    forgotten = oracle.run_program("x.sum().backward()\nx.zero_grad()\nx", {"x": x})
    assert forgotten["x.grad"] is None


def test_gradient_descent_goes_down_a_parabola() -> None:
    program = """
w = Tensor(w, requires_grad=True)
def loss(): return (w * w).sum()
losses = sgd_train([w], loss, 3, 0.25)
torch.tensor(losses), w"""
    losses, w = oracle.run_program(program, {}, {"w": torch.tensor([8.0, 0.0])})["answer"]
    assert_close(losses, torch.tensor([64.0, 16.0, 4.0]))
    assert_close(w, torch.tensor([1.0, 0.0]))


def test_swiglu_is_silu_times_up_and_differentiated_as_finite_differences_say() -> None:
    gate, up, above = normal(2, 3), normal(2, 3, seed=1), normal(2, 3, seed=2)
    found = oracle.swiglu(gate, up, above)
    assert_close(found["output"], F.silu(gate) * up)
    step = 1e-6
    slope = (F.silu(gate + step) - F.silu(gate - step)) * up / (2 * step)
    assert_close(found["gradient of gate"], above * slope, rtol=1e-6, atol=1e-8)
    assert_close(found["gradient of up"], above * F.silu(gate))
    above_gate, above_up = normal(2, 3, seed=3), normal(2, 3, seed=4)
    second = oracle.swiglu_second(gate, up, above, above_gate, above_up)
    high, low = (oracle.swiglu(gate + sign * step, up, above) for sign in (1, -1))
    slope = torch.zeros_like(gate)
    for name, weight in (("gate", above_gate), ("up", above_up)):
        slope += (high[f"gradient of {name}"] - low[f"gradient of {name}"]) / (2 * step) * weight
    assert_close(second["gate"], slope, rtol=1e-6, atol=1e-8)

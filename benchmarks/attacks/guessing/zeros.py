"""Return zeros of the right shape

Shape, dtype and gradients of nothing: whatever a test checks besides the numbers is right.
"""

import torch

EXERCISE = "week1/decoder_llm"
TESTS = ["test_the_worked_example"]


def rms_norm(x, weight, eps):
    return torch.zeros_like(x) * weight


def swiglu(x, w_gate, w_up, w_down):
    return x * 0

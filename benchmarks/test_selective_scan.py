"""How much faster the chunked scan is than two step-by-step scans: `pytest benchmarks` takes a few minutes.

mamba-ssm's reference is measured in addition to the solution's own step-by-step scan because it indexes positions, and
the gradient of each index is as large as the whole sequence: its backward pass is quadratic in the length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.oracles.references import reference

BATCH, CHANNELS, STATES, LENGTH = 1, 64, 16, 4096


def scan(name: str) -> Callable[..., Any]:
    if name == "mamba-ssm's reference":
        return reference("mamba_ssm.ops.selective_scan_interface.selective_scan_ref")
    from solutions.week1 import selective_scan

    return selective_scan.selective_scan_chunked if name == "by chunks" else selective_scan.selective_scan


@pytest.mark.parametrize("name", ["by chunks", "step by step", "mamba-ssm's reference"])
@pytest.mark.parametrize("passes", ["forward", "forward and backward"])
def test_selective_scan(benchmark: Any, name: str, passes: str) -> None:
    torch.manual_seed(0)
    u, delta = torch.randn(2, BATCH, CHANNELS, LENGTH).unbind()
    B, C = torch.randn(2, BATCH, STATES, LENGTH).unbind()
    A = -torch.rand(CHANNELS, STATES)
    inputs = [x.requires_grad_(passes != "forward") for x in (u, delta, A, B, C)]
    function = scan(name)

    def run() -> None:
        out = function(*inputs, delta_softplus=True)
        if passes != "forward":
            torch.autograd.grad(out.sum(), inputs)

    benchmark.group = passes
    benchmark.pedantic(run, rounds=3 if name == "mamba-ssm's reference" else 7, warmup_rounds=1)

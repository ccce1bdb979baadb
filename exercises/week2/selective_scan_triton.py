"""The selective scan of Mamba (Gu & Dao 2023, arXiv:2312.00752, section 3.3) as Triton kernels, forward and backward.

Sizes in the shapes below: b batch, d channels, l length, n numbers in the state of one channel, g groups of channels.
Capital A, B, C and D are the paper's matrices. A tile is CHANNELS channels by STEPS positions of one sequence.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run a selective state space model over a sequence, by Triton kernels: section 3.3.2 of the paper.

    Each channel carries a state x of n numbers, initially zeros. With Δ = delta + delta_bias, or the softplus of it,

        x_t = exp(Δ_t A) ⊙ x_{t-1} + Δ_t B_t u_t        y_t = C_t · x_t        out_t = (y_t + D u_t) silu(z_t)

    Arguments, results and errors are those of week 1's `selective_scan`, and so of `selective_scan_fn` of `mamba_ssm`.
    The computation is in float32 for all dtypes; where u is float64, it may be in float64 instead.

    `@triton.jit` kernels do the scan, forward and backward: they compute the decays exp(Δ A), b·d·l·n exponentials in
    each pass, and the results come from what they store. PyTorch may convert and copy arguments, compute what has no n,
    and add up partial sums, in a number of operations that does not grow with l.
    The kernels run on a GPU, and on a CPU in Triton's interpreter (TRITON_INTERPRET=1), where the tests check that:
        Nothing of b·d·l·n numbers is ever made, for l of 128 or more and n = 16: no tensor is half as large, and all
        that is kept for the backward pass is smaller than that. Backward computes the states again.
        No address outside the tensors is read or written, and every number of the results is written.
    Each kernel must also compile for a Hopper GPU (compute capability 9.0) and fit into its 227 KB of shared memory.

    Args:
        u: (b, d, l), the input: float16, bfloat16, float32 or float64. b may be 0, l may not. No argument need be
            contiguous.
        delta: (b, d, l), the step sizes Δ before delta_bias and softplus.
        A: (d, n), real, usually negative, so that exp(Δ A) forgets; Δ A may be as low as -10⁴ and below.
        B: what writes u into the state. (d, n): the same at all positions, different for each channel. (b, n, l):
            different at each position, the same for all channels. (b, g, n, l): different at each position and for each
            of g groups of d / g neighbouring channels.
        C: what reads y from the state; one of the same three forms, independently of B.
        D: (d,), what passes u by the state; None omits the term.
        z: (b, d, l), the gate; None omits the factor.
        delta_bias: (d,), added to delta.
        delta_softplus: Δ is log(1 + exp(delta + delta_bias)), however large or small that sum is. Otherwise Δ may be
            negative.
        return_last_state: also return the state after the last position.

    Returns:
        out, (b, d, l), of u's dtype: a new tensor. With return_last_state (out, x_l), where the state is (b, d, n) in
        the dtype of the computation. Both are differentiable in every tensor argument, once. The arguments are not
        modified.

    Raises:
        ValueError: B or C has none of these forms, or its g does not divide d; the message names B or C, its shape and
            d.
    """
    raise NotImplementedError

"""The selective scan: Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces"
(arXiv:2312.00752), sections 2 and 3.

Sizes in the shapes below: b batch, d channels, l length, n state size of one channel, g groups of channels, w width of
the convolution. Capital A, B, C and D are the paper's matrices.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


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
    """Run a selective state space model over a sequence, one position at a time: Algorithm 2 of the paper.

    Each channel has a state x of n numbers, initially 0. With Δ = delta + delta_bias, or its softplus,

        x_t = exp(Δ_t A) ⊙ x_{t-1} + Δ_t B_t u_t        y_t = C_t · x_t        out_t = (y_t + D u_t) silu(z_t)

    where A is discretised exactly and B by Euler's rule. Arguments and result are those of `selective_scan_fn` in
    `mamba_ssm`.

    The computation is in float32 for all argument dtypes; if u is float64, either float32 or float64 will do. Half
    precision appears only at the input and the output. No argument need be contiguous. The cost is linear in l: twice
    the positions take about twice the operations, and tensors at most about twice as large.

    Args:
        u: (b, d, l), the input: float16, bfloat16, float32 or float64. The batch may be empty, the sequence may not.
        delta: (b, d, l), the step sizes Δ before delta_bias and softplus.
        A: (d, n), real and normally negative, so that exp(Δ A) forgets. Δ A may be -10⁴ or lower.
        B: writes u into the state. (d, n): one B per channel, the same at every position. (b, n, l): one per position,
            the same for every channel. (b, g, n, l): one per position and group, where each of the g groups is d / g
            neighbouring channels.
        C: reads y from the state: the same three forms, independently of B's.
        D: (d,), carries u past the state; None leaves the term out.
        z: (b, d, l), the gate; None leaves the factor out.
        delta_bias: (d,), added to delta.
        delta_softplus: Δ is log(1 + exp(delta + delta_bias)), however large that is. Without it Δ may be negative.
        return_last_state: also return the state after the last position.

    Returns:
        out, (b, d, l), of u's dtype: a new tensor. With return_last_state, (out, x_l), where x_l is (b, d, n) in the
        dtype of the computation. Both are differentiable with respect to every tensor argument.

    Raises:
        ValueError: B or C has none of its forms, or its g does not divide d; the message names B or C, its shape and d.
    """
    raise NotImplementedError


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """One step of `selective_scan`, for generation: its work and memory do not depend on the length of the text, and it
    creates no tensor larger than the state.

    Arguments and result are those of `selective_state_update` in `mamba_ssm` without heads. The computation is in
    float32, or in either float32 or float64 if x is float64. Not meant to be differentiated.

    Args:
        state: (b, d, n), the state after the positions so far, float32 or of x's dtype. **Overwritten** with the state
            after this one; all other arguments are left unchanged.
        x: (b, d), this position's input: `selective_scan`'s u.
        dt: (b, d), the step size before dt_bias and softplus.
        A: (d, n).
        B: (b, n), or (b, g, n) for g groups of channels.
        C: (b, n) or (b, g, n).
        D: (d,).
        z: (b, d).
        dt_bias: (d,).
        dt_softplus: Δ is log(1 + exp(dt + dt_bias)).

    Returns:
        out, (b, d), of x's dtype: the output of `selective_scan` at this position.

    Raises:
        ValueError: as in `selective_scan`; the state is then unchanged.
    """
    raise NotImplementedError


def selective_scan_chunked(
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
    chunk_size: int = 64,
) -> Tensor | tuple[Tensor, Tensor]:
    """`selective_scan` in chunks of the sequence, with far fewer and larger operations: section 3.3 of the paper.

    Arguments, result and accuracy are those of `selective_scan` for every chunk_size. The work is parallel inside a
    chunk or across chunks, forward and backward: the number of tensor operations grows with
    chunk_size + l / chunk_size, not with l (a factor of log(chunk_size) is allowed). With chunk_size=64 and l = 4096,
    the forward pass takes fewer than l operations, and forward and backward together fewer than 3 l. This makes it
    several times as fast as the scan step by step.

    If l is many times chunk_size and chunk_size is at least 16, nothing with b·d·l·n numbers is ever created, forward
    or backward: no tensor is half that large, and everything kept for the backward pass is together smaller than that,
    because the backward pass recomputes the states.

    Args:
        chunk_size: positions in a chunk, at least 1. l need not be a multiple of it and may be smaller.

    Returns:
        As `selective_scan`. Differentiable once.

    Raises:
        ValueError: as in `selective_scan`; or chunk_size is less than 1, and the message names it.
    """
    raise NotImplementedError


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """A convolution along the sequence that sees no future, with one filter per channel.

        out_t = activation(bias + Σ_i weight_i x_{t-w+1+i}),  i = 0 … w - 1

    The last weight of a filter multiplies the present input. Arguments and result are those of `causal_conv1d_fn` in
    `causal_conv1d`.

    Args:
        x: (b, d, l), contiguous or not, l ≥ 1.
        weight: (d, w), w ≥ 1.
        bias: (d,).
        initial_states: (b, d, w - 1), the inputs before the first one, the latest last; None means zeros.
        return_final_states: also return the initial_states of a sequence that continues this one.
        activation: None, or "silu", also called "swish".

    Returns:
        out, (b, d, l), of x's dtype. With return_final_states, (out, final_states), where final_states, (b, d, w - 1),
        is of x's dtype and in its own memory: the last w - 1 inputs, including some of initial_states if l < w - 1.
        Both are differentiable with respect to every tensor argument.

    Raises:
        ValueError: activation is any other string; the message names it.
    """
    raise NotImplementedError

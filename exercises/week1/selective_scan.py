"""The selective scan: Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces"
(arXiv:2312.00752), sections 2 and 3.

Sizes in the shapes below: b batch, d channels, l length, n numbers in the state of one channel, g groups of channels,
w width of the convolution. Capital A, B, C and D are the paper's matrices.
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
    """Run a selective state space model over a sequence, a step for each position: Algorithm 2 of the paper.

    Each channel carries a state x of n numbers, which begins as zeros. With Δ = delta + delta_bias, or its softplus,

        x_t = exp(Δ_t A) ⊙ x_{t-1} + Δ_t B_t u_t        y_t = C_t · x_t        out_t = (y_t + D u_t) silu(z_t)

    where A is discretised exactly and B by Euler's rule. Arguments and result are those of `selective_scan_fn` of
    `mamba_ssm`.

    The computation is in float32 whatever the dtypes of the arguments, or, where u is float64, in either of the two:
    half precision is only what goes in and comes out. No argument need be contiguous. The cost grows in proportion to
    l: twice the positions take about twice the operations, and tensors at most about twice as large.

    Args:
        u: (b, d, l), the input: float16, bfloat16, float32 or float64. The batch may be empty, the sequence not.
        delta: (b, d, l), the step sizes Δ before delta_bias and softplus.
        A: (d, n), real, as a rule negative, so that exp(Δ A) forgets; Δ A may be as low as -10⁴ and below.
        B: what writes u into the state. (d, n): the same at all positions, of its own for each channel. (b, n, l): of
            its own at each position, the same for all channels. (b, g, n, l): likewise for each of g groups of
            neighbouring channels, d / g channels each.
        C: what reads y from the state; the same three forms, whichever of them B has.
        D: (d,), what passes u by the state; None leaves the term out.
        z: (b, d, l), the gate; None leaves the factor out.
        delta_bias: (d,), added to delta.
        delta_softplus: Δ is log(1 + exp(delta + delta_bias)), however large that is. Without it Δ may be negative.
        return_last_state: also return the state after the last position.

    Returns:
        out, (b, d, l), of u's dtype: a new tensor. With return_last_state (out, x_l), the state being (b, d, n) in the
        dtype of the computation. Both are differentiable in every tensor that was given.

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
    """One step of `selective_scan`, for generation: its work and memory do not depend on how long the text is, and no
    tensor that it makes is larger than the state.

    Arguments and result are those of `selective_state_update` of `mamba_ssm` without heads. The computation is in
    float32, or in either of float32 and float64 where x is float64. Not meant to be differentiated.

    Args:
        state: (b, d, n), the state after the positions so far, float32 or of x's dtype. **Overwritten** with the state
            after this one; all other arguments are left as they were.
        x: (b, d), this position's input, what u is in `selective_scan`.
        dt: (b, d), the step size before dt_bias and softplus.
        A: (d, n).
        B: (b, n), or (b, g, n) for g groups of channels.
        C: (b, n) or (b, g, n).
        D: (d,).
        z: (b, d).
        dt_bias: (d,).
        dt_softplus: Δ is log(1 + exp(dt + dt_bias)).

    Returns:
        out, (b, d), of x's dtype: what `selective_scan` gives at this position.

    Raises:
        ValueError: as in `selective_scan`; the state is then left as it was.
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
    """`selective_scan` by chunks of the sequence, in far fewer and larger operations: section 3.3 of the paper.

    The arguments, the result and its accuracy are those of `selective_scan`, whatever chunk_size is. The work is
    parallel inside a chunk or across chunks, forward and backward: the number of tensor operations grows with
    chunk_size + l / chunk_size, not with l (a factor log(chunk_size) is allowed). With chunk_size=64 and l = 4096, the
    forward pass takes fewer than l operations, forward and backward together fewer than 3 l. It is therefore several
    times as fast as the scan step by step.

    Nothing of b·d·l·n numbers is ever made, forward or backward, if l is many times chunk_size and chunk_size is 16 or
    more: no tensor is half as large, and all that is kept for the backward pass is smaller than that, because the
    states are computed again there.

    Args:
        chunk_size: positions in a chunk, at least 1. l need be no multiple of it and may be smaller.

    Returns:
        As `selective_scan`. Differentiable once.

    Raises:
        ValueError: as in `selective_scan`. chunk_size is less than 1; the message names it.
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
    """A convolution along the sequence, of each channel with a filter of its own, that sees no future.

        out_t = activation(bias + Σ_i weight_i x_{t-w+1+i}),  i = 0 … w - 1

    so that the last number of a filter meets the present. Arguments and result are those of `causal_conv1d_fn` of
    `causal_conv1d`.

    Args:
        x: (b, d, l), contiguous or not, l ≥ 1.
        weight: (d, w), w ≥ 1.
        bias: (d,).
        initial_states: (b, d, w - 1), the inputs before the first one, the latest last; None means zeros.
        return_final_states: also return what initial_states has to be for a sequence that goes on from here.
        activation: None, or "silu", also called "swish".

    Returns:
        out, (b, d, l), of x's dtype. With return_final_states (out, final_states), the latter (b, d, w - 1), of x's
        dtype and in memory of its own: the last w - 1 inputs, those of initial_states among them if l < w - 1. Both are
        differentiable in every tensor that was given.

    Raises:
        ValueError: activation is another string; the message names it.
    """
    raise NotImplementedError

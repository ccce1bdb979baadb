"""The selective scan: Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces"
(arXiv:2312.00752), sections 2 and 3.

Sizes in the shapes below: b batch, d channels, l length, n state size of one channel, g groups of channels, w width of
the convolution. Capital A, B, C and D are the paper's matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
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
    _check_forms(u, A, B, C)
    dtype = u.dtype
    u, delta, A, B, C = _widened(dtype, u, delta, A, B, C)
    D, z, delta_bias = _widened(dtype, D, z, delta_bias)
    dt = _step_sizes(delta, delta_bias, delta_softplus)  # (b, d, l)
    y, state = _scan(u, dt, A, B, C, u.new_zeros(u.size(0), *A.shape))  # (b, d, l), (b, d, n)
    out = _skip_and_gate(y, u, D, z).to(dtype)
    return (out, state) if return_last_state else out


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
    _check_forms(x, A, B, C)
    dtype = x.dtype
    x, before, dt, A, B, C = _widened(dtype, x, state, dt, A, B, C)
    D, z, dt_bias = _widened(dtype, D, z, dt_bias)
    x, dt, B, C = (each.unsqueeze(-1) for each in (x, dt, B, C))  # a sequence of length 1
    z = None if z is None else z.unsqueeze(-1)
    y, after = _scan(x, _step_sizes(dt, dt_bias, dt_softplus), A, B, C, before)  # (b, d, 1), (b, d, n)
    state.copy_(after)
    return _skip_and_gate(y, x, D, z).squeeze(-1).to(dtype)


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
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size} must be at least 1")
    _check_forms(u, A, B, C)
    dtype = u.dtype
    u, delta, A, B, C = _widened(dtype, u, delta, A, B, C)
    D, z, delta_bias = _widened(dtype, D, z, delta_bias)
    dt = _step_sizes(delta, delta_bias, delta_softplus)  # (b, d, l)
    y, state = _scan_by_chunks(u, dt, A, B, C, min(chunk_size, u.size(-1)))  # (b, d, l), (b, d, n)
    out = _skip_and_gate(y, u, D, z).to(dtype)
    return (out, state) if return_last_state else out


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
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"activation={activation!r} must be None, 'silu' or 'swish'")
    length, (channels, width) = x.size(-1), weight.shape
    if initial_states is None:
        initial_states = x.new_zeros(*x.shape[:-1], width - 1)
    padded = torch.cat([initial_states.to(x.dtype), x], dim=-1)  # (b, d, w - 1 + l)
    out = F.conv1d(padded.to(weight.dtype), weight.unsqueeze(1), bias, groups=channels)  # (b, d, l)
    if activation is not None:
        out = F.silu(out)
    out = out.to(x.dtype)
    return (out, padded[..., length:].clone()) if return_final_states else out


# --- what the three forms of the scan share -------------------------------------------------------------------------


def _check_forms(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    """Raise ValueError if B or C does not fit A (d, n) and u (b, d, l), or (b, d) for a single step."""
    (batch, channels, *length), states = u.shape, A.size(1)
    for name, matrix in (("B", B), ("C", C)):
        groups = matrix.size(1) if matrix.dim() > u.dim() else 1
        forms = [(batch, states, *length), (batch, groups, states, *length)]
        if length:
            forms.append((channels, states))
        if matrix.shape not in forms or channels % groups:
            allowed = "(d, n), (b, n, l) or (b, g, n, l)" if length else "(b, n) or (b, g, n)"
            sizes = ", ".join(f"{size}={number}" for size, number in zip("bdl", u.shape, strict=False))
            raise ValueError(
                f"{name} must have shape {allowed} with {sizes}, n={states} and g dividing d, not {tuple(matrix.shape)}"
            )


_MaybeTensor = TypeVar("_MaybeTensor", Tensor, Tensor | None)


def _widened(dtype: torch.dtype, *tensors: _MaybeTensor) -> list[_MaybeTensor]:
    """The tensors in float32, or in float64 if that is dtype. None stays None."""
    wide = torch.promote_types(dtype, torch.float32)
    return [each if each is None else each.to(wide) for each in tensors]


def _step_sizes(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    """Δ, (b, d, l)."""
    if bias is not None:
        delta = delta + bias.unsqueeze(-1)
    return F.softplus(delta) if softplus else delta


def _skip_and_gate(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """(y + D u) silu(z), (b, d, l)."""
    if D is not None:
        y = y + D.unsqueeze(-1) * u
    return y if z is None else y * F.silu(z)


# --- step by step ---------------------------------------------------------------------------------------------------


def _scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """y (b, d, l) and the last state (b, d, n), starting from `state` (b, d, n)."""
    channels, length = u.shape[1:]
    ys = []
    # unbind, not u[..., t]: the gradient of every such index would be a tensor as large as u, mostly zeros.
    for u_t, dt_t, B_t, C_t in zip(
        u.unbind(-1), dt.unbind(-1), _by_position(B, channels, length), _by_position(C, channels, length), strict=True
    ):
        decay = torch.exp(dt_t.unsqueeze(-1) * A)  # (b, d, n)
        state = decay * state + (dt_t * u_t).unsqueeze(-1) * B_t  # (b, d, n)
        ys.append((state * C_t).sum(-1))  # (b, d)
    return torch.stack(ys, dim=-1), state


def _by_position(B: Tensor, channels: int, length: int) -> Sequence[Tensor]:
    """B or C at each position, in a shape that broadcasts to (b, d, n)."""
    if B.dim() == 2:
        return [B] * length  # (d, n) each
    if B.dim() == 3:
        return B.unsqueeze(1).unbind(-1)  # (b, 1, n) each
    return B.repeat_interleave(channels // B.size(1), dim=1).unbind(-1)  # (b, d, n) each


# --- by chunks ------------------------------------------------------------------------------------------------------
#
# The sequence is cut into k chunks of t positions, which advance side by side as if each were its own sequence: one
# operation handles the same position of every chunk. Tensors are therefore laid out as (t, k, b, g, n, h), with
# h = d / g channels per group, and size 1 in place of a dimension that a tensor does not have.


def _scan_by_chunks(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """y (b, d, l) and the last state (b, d, n)."""
    length = u.size(-1)
    groups = math.lcm(*(each.size(1) for each in (B, C) if each.dim() == 4))

    def by_channel(x: Tensor) -> Tensor:
        """(b, d, l) -> (t, k, b, g, 1, h)."""
        return _fold(x.unflatten(1, (groups, -1)), chunk_size).unsqueeze(-2)

    def by_state(x: Tensor) -> Tensor:
        """(d, n) -> (g, n, h)."""
        return x.unflatten(0, (groups, -1)).mT.contiguous()

    def matrix(x: Tensor) -> Tensor:
        """(d, n) -> (t, 1, 1, g, n, h); (b, n, l) or (b, g, n, l) -> (t, k, b, g, n, 1)."""
        if x.dim() == 2:
            return by_state(x).expand(chunk_size, 1, 1, -1, -1, -1)
        x = x.unsqueeze(1) if x.dim() == 3 else x
        return _fold(x.repeat_interleave(groups // x.size(1), dim=1), chunk_size).unsqueeze(-1)

    y, state = _ChunkedScan.apply(by_channel(dt), by_channel(dt * u), by_state(A), matrix(B), matrix(C))
    y = y.squeeze(-2).permute(2, 3, 4, 1, 0)  # (t, k, b, g, 1, h) -> (b, g, h, k, t)
    return y.flatten(3).flatten(1, 2)[..., :length], state.mT.flatten(1, 2)


def _fold(x: Tensor, chunk_size: int) -> Tensor:
    """(b, g, m, l) -> (t, k, b, g, m). Zeros fill up the last chunk: Δ = 0 leaves a state unchanged."""
    x = F.pad(x, (0, -x.size(-1) % chunk_size))
    return x.unflatten(-1, (-1, chunk_size)).permute(4, 3, 0, 1, 2).contiguous()


def _entries(first: Tensor, decays: Tensor, ends: Tensor) -> Tensor:
    """The state that enters each chunk, (k, …): the recurrence once more, with one step per chunk.

    `first` enters the first chunk. `ends` are the states at the end of chunks entered by zeros, and `decays` the
    factors by which a state shrinks in crossing a chunk, (k, …) each.
    """
    entries = [first]
    for decay, end in zip(decays[:-1], ends[:-1], strict=True):
        entries.append(torch.addcmul(end, decay, entries[-1]))
    return torch.stack(entries)


class _ChunkedScan(torch.autograd.Function):
    """x_t = exp(Δ_t A) x_{t-1} + B_t (Δ u)_t and y_t = C_t · x_t from x = 0, for all chunks side by side.

    Each pass goes through the positions of a chunk twice: first with zeros entering every chunk, to learn how each one
    ends and so what really enters the next; then with those entries. Nothing is divided by a decay, so no exponent is
    positive that is not positive step by step.

    dt (Δ), dtu (Δ u) and y are (t, k, b, g, 1, h), A is (g, n, h), B and C broadcast to (t, k, b, g, n, h).
    """

    @staticmethod
    def forward(ctx: Any, dt: Tensor, dtu: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        """y, and the state after the last position (b, g, n, h)."""
        log2_decay = A * _LOG2_E  # (g, n, h)
        state = (B[0] * dtu[0]).zero_()  # (k, b, g, n, h)
        for dt_t, dtu_t, B_t in zip(dt, dtu, B, strict=True):
            state.mul_(torch.exp2(dt_t * log2_decay)).addcmul_(B_t, dtu_t)
        state = _entries(torch.zeros_like(state[0]), torch.exp2(dt.sum(0) * log2_decay), state)

        stride = math.isqrt(len(dt))
        kept, ys = [], []  # kept: every √t-th state; the backward pass recomputes those in between
        for t, (dt_t, dtu_t, B_t, C_t) in enumerate(zip(dt, dtu, B, C, strict=True)):
            if t % stride == 0:
                kept.append(state.clone())
            state.mul_(torch.exp2(dt_t * log2_decay)).addcmul_(B_t, dtu_t)
            ys.append((C_t * state).sum(-2, keepdim=True))  # (k, b, g, 1, h)
        ctx.save_for_backward(dt, dtu, A, B, C, torch.stack(kept))
        return torch.stack(ys), state[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor, ...]:
        """The gradient g_t of x_t, including all that x_t does later, follows a recurrence from the end:

            g_t = C_t grad_y_t + exp(Δ_{t+1} A) g_{t+1}

        `carry` is the second term: the share of g_t that comes from later positions.
        """
        dt, dtu, A, B, C, kept = ctx.saved_tensors
        log2_decay = A * _LOG2_E  # (g, n, h)
        steps = list(zip(dt, dtu, B, C, grad_y.contiguous(), strict=True))
        carry = torch.zeros_like(kept[0])  # (k, b, g, n, h)
        for dt_t, _, _, C_t, grad_y_t in reversed(steps):
            carry.addcmul_(C_t, grad_y_t).mul_(torch.exp2(dt_t * log2_decay))
        whole_decays = torch.exp2(dt.sum(0) * log2_decay)  # (k, b, g, n, h)
        carry = _entries(grad_last, whole_decays.flip(0), carry.flip(0)).flip(0)

        grads = []
        grad_A = torch.zeros_like(carry)
        stride = math.isqrt(len(dt))
        for i in reversed(range(len(kept))):
            stretch = steps[i * stride : (i + 1) * stride]
            states, decays = [kept[i]], []  # x_{t-1}, x_t, … and exp(Δ_t A), …, (k, b, g, n, h) each
            for dt_t, dtu_t, B_t, _, _ in stretch:
                decays.append(torch.exp2(dt_t * log2_decay))
                states.append(torch.addcmul(B_t * dtu_t, decays[-1], states[-1]))
            for dt_t, dtu_t, B_t, C_t, grad_y_t in reversed(stretch):
                g = carry.addcmul_(C_t, grad_y_t)  # g_t; in place, and so is the next carry
                grad_C = (states.pop() * grad_y_t).sum_to_size(C_t.shape)
                grad_B = (g * dtu_t).sum_to_size(B_t.shape)
                grad_dtu = (g * B_t).sum(-2, keepdim=True)  # (k, b, g, 1, h)
                carry = g.mul_(decays.pop())  # exp(Δ_t A) g_t, for position t - 1
                grad_exponent = carry * states[-1]  # of Δ_t A: g_t exp(Δ_t A) x_{t-1}
                grad_A.addcmul_(grad_exponent, dt_t)
                grads.append(((grad_exponent * A).sum(-2, keepdim=True), grad_dtu, grad_B, grad_C))
        grad_dt, grad_dtu, grad_B, grad_C = (torch.stack(each[::-1]) for each in zip(*grads, strict=True))
        return grad_dt, grad_dtu, grad_A.sum(dim=(0, 1)), grad_B, grad_C


_LOG2_E = math.log2(math.e)  # exp(x) = 2^(x log2(e)): exp2 is faster, and does not slow down where it underflows

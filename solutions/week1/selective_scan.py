"""The selective scan: Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces"
(arXiv:2312.00752), sections 2 and 3.

Sizes in the shapes below: b batch, d channels, l length, n numbers in the state of one channel, g groups of channels,
w width of the convolution. Capital A, B, C and D are the paper's matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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
    _check_forms(u, A, B, C)
    dtype = u.dtype
    u, delta, A, B, C, D, z, delta_bias = _widened(u, delta, A, B, C, D, z, delta_bias)
    dt = _step_sizes(delta, delta_bias, delta_softplus)  # (b, d, l)
    y, state = _scan(u, dt, A, B, C, u.new_zeros(u.size(0), *A.shape))
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
    _check_forms(x, A, B, C)
    dtype, before = x.dtype, state
    x, state, dt, A, B, C, D, z, dt_bias = _widened(x, state, dt, A, B, C, D, z, dt_bias)
    x, dt, B, C = (each.unsqueeze(-1) for each in (x, dt, B, C))  # a sequence of length 1
    z = None if z is None else z.unsqueeze(-1)
    y, after = _scan(x, _step_sizes(dt, dt_bias, dt_softplus), A, B, C, state)
    before.copy_(after)
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
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size} must be at least 1")
    _check_forms(u, A, B, C)
    dtype = u.dtype
    u, delta, A, B, C, D, z, delta_bias = _widened(u, delta, A, B, C, D, z, delta_bias)
    dt = _step_sizes(delta, delta_bias, delta_softplus)  # (b, d, l)
    y, state = _scan_by_chunks(u, dt, A, B, C, min(chunk_size, u.size(-1)))
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
    """ValueError where B or C does not fit u, (b, d, l) or (b, d) for one step, and A, (d, n)."""
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
                f"{name} has the shape {tuple(matrix.shape)}, not {allowed} where {sizes}, n={states} and g divides d"
            )


def _widened(first: Tensor, *others: Tensor | None) -> list[Any]:
    """All in float32, or in float64 where the first is."""
    dtype = torch.promote_types(first.dtype, torch.float32)
    return [None if each is None else each.to(dtype) for each in (first, *others)]


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
    """y (b, d, l) and the last state (b, d, n), beginning from `state`."""
    channels, length = u.shape[1:]
    ys = []
    # Not u[..., t] and so on: the gradient of each index would be a tensor as large as u, mostly zeros.
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
        return [B] * length
    if B.dim() == 3:
        return B.unsqueeze(1).unbind(-1)
    return B.repeat_interleave(channels // B.size(1), dim=1).unbind(-1)


# --- by chunks ------------------------------------------------------------------------------------------------------
#
# The sequence is cut into k chunks of t positions, which advance side by side, as if each were a sequence of its own:
# one operation does the same position of all chunks. Inside, tensors are therefore laid out (t, k, b, g, n, h), with
# h = d / g channels a group, and with 1 for n or h where there is no such dimension.


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
    y = y.squeeze(-2).permute(2, 3, 4, 1, 0)  # (b, g, h, k, t)
    return y.flatten(3).flatten(1, 2)[..., :length], state.mT.flatten(1, 2)


def _fold(x: Tensor, chunk_size: int) -> Tensor:
    """(b, g, m, l) -> (t, k, b, g, m). Zeros fill the last chunk up: with Δ = 0 a state stays as it is."""
    x = F.pad(x, (0, -x.size(-1) % chunk_size))
    return x.unflatten(-1, (-1, chunk_size)).permute(4, 3, 0, 1, 2).contiguous()


def _enter(first: Tensor, decays: Tensor, ends: Tensor) -> Tensor:
    """What each chunk begins with, (k, …): the recurrence again, with a step for each chunk.

    `first` is what the first chunk begins with; `ends` is what the chunks end with if they begin with zeros, and
    `decays` what is left at the end of a chunk of what stood at its beginning.
    """
    entries = [first]
    for decay, end in zip(decays[:-1], ends[:-1], strict=True):
        entries.append(torch.addcmul(end, decay, entries[-1]))
    return torch.stack(entries)


class _ChunkedScan(torch.autograd.Function):
    """x_t = exp(Δ_t A) x_{t-1} + B_t w_t and y_t = C_t · x_t from x = 0, with w = Δ u, for all chunks side by side.

    Each pass goes over the positions of a chunk twice. The first time the chunks begin with zeros, to learn what each
    ends with and so what the next one really begins with; the second time they begin with that. No exponent is ever
    positive that was not so in the step-by-step scan: nothing is divided by a decay.
    """

    @staticmethod
    def forward(ctx: Any, dt: Tensor, w: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        log_decay = A * _LOG2_E
        state = (B[0] * w[0]).zero_()  # (k, b, g, n, h)
        for dt_t, w_t, B_t in zip(dt, w, B, strict=True):
            state.mul_(torch.exp2(dt_t * log_decay)).addcmul_(B_t, w_t)
        state = _enter(torch.zeros_like(state[0]), torch.exp2(dt.sum(0) * log_decay), state)

        stride = math.isqrt(len(dt))
        kept, ys = [], []  # kept: every √t-th state; the backward pass computes those between again
        for t, (dt_t, w_t, B_t, C_t) in enumerate(zip(dt, w, B, C, strict=True)):
            if t % stride == 0:
                kept.append(state.clone())
            state.mul_(torch.exp2(dt_t * log_decay)).addcmul_(B_t, w_t)
            ys.append((C_t * state).sum(-2, keepdim=True))
        ctx.save_for_backward(dt, w, A, B, C, torch.stack(kept))
        return torch.stack(ys), state[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor, ...]:
        """The gradient of the state is a scan too, from the end: grad_{t-1} = exp(Δ_t A) (grad_t + C_t grad_y_t)."""
        dt, w, A, B, C, kept = ctx.saved_tensors
        log_decay = A * _LOG2_E
        steps = list(zip(dt, w, B, C, grad_y.contiguous(), strict=True))
        grad = torch.zeros_like(kept[0])  # of the states, (k, b, g, n, h)
        for dt_t, _, _, C_t, grad_y_t in reversed(steps):
            grad.addcmul_(C_t, grad_y_t).mul_(torch.exp2(dt_t * log_decay))
        whole_decays = torch.exp2(dt.sum(0) * log_decay)
        grad = _enter(grad_last, whole_decays.flip(0), grad.flip(0)).flip(0)

        grads = []
        grad_A = torch.zeros_like(grad)
        stride = math.isqrt(len(dt))
        for i in reversed(range(len(kept))):
            stretch = steps[i * stride : (i + 1) * stride]
            states, decays = [kept[i]], []
            for dt_t, w_t, B_t, _, _ in stretch:
                decays.append(torch.exp2(dt_t * log_decay))
                states.append(torch.addcmul(B_t * w_t, decays[-1], states[-1]))
            for dt_t, w_t, B_t, C_t, grad_y_t in reversed(stretch):
                grad.addcmul_(C_t, grad_y_t)  # of x_t
                grad_C = (states.pop() * grad_y_t).sum_to_size(C_t.shape)
                grad_B = (grad * w_t).sum_to_size(B_t.shape)
                grad_w = (grad * B_t).sum(-2, keepdim=True)
                grad.mul_(decays.pop())  # of x_{t-1}
                grad_log = grad * states[-1]  # of Δ_t A
                grad_A.addcmul_(grad_log, dt_t)
                grads.append(((grad_log * A).sum(-2, keepdim=True), grad_w, grad_B, grad_C))
        grad_dt, grad_w, grad_B, grad_C = (torch.stack(each[::-1]) for each in zip(*grads, strict=True))
        return grad_dt, grad_w, grad_A.sum(dim=(0, 1)), grad_B, grad_C


_LOG2_E = math.log2(math.e)  # exp(x) = 2^(x log2(e)): exp2 is faster, and does not slow down where it underflows

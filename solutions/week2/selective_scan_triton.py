"""The selective scan of Mamba (Gu & Dao 2023, arXiv:2312.00752, section 3.3) as Triton kernels, forward and backward.

Sizes in the shapes below: b batch, d channels, l length, n numbers in the state of one channel, g groups of channels.
Capital A, B, C and D are the paper's matrices. A tile is CHANNELS channels by STEPS positions of one sequence.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable


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

    Each channel carries a state x of n numbers, which begins as zeros. With Δ = delta + delta_bias, or its softplus,

        x_t = exp(Δ_t A) ⊙ x_{t-1} + Δ_t B_t u_t        y_t = C_t · x_t        out_t = (y_t + D u_t) silu(z_t)

    Arguments, result and errors are those of week 1's `selective_scan`, and so of `selective_scan_fn` of `mamba_ssm`.
    The computation is in float32 whatever the dtypes of the arguments, or, where u is float64, in either of the two.

    The scan is done in `@triton.jit` kernels, forward and backward: they compute the decays, exp(Δ A), b·d·l·n
    exponentials in each of the two passes, and what PyTorch gives back comes from what they store. PyTorch may convert
    and copy arguments, do what has no n, and add up partial sums, in a number of operations that does not grow with l.
    The kernels run on a GPU, and on a CPU in Triton's interpreter (TRITON_INTERPRET=1), which is told the following:
        Nothing of b·d·l·n numbers is ever made, if l is 128 and more and n is 16: no tensor is half as large, and all
        that is kept for the backward pass is smaller than that. The states are computed again there.
        No address outside the tensors is read or written, and every number of the results is written.
    And each kernel compiles for a Hopper GPU (compute capability 9.0), within its 227 KB of shared memory.

    Args:
        u: (b, d, l), the input: float16, bfloat16, float32 or float64. The batch may be empty, the sequence not. No
            argument need be contiguous.
        delta: (b, d, l), the step sizes Δ before delta_bias and softplus.
        A: (d, n), real, as a rule negative, so that exp(Δ A) forgets; Δ A may be as low as -10⁴ and below.
        B: what writes u into the state. (d, n): the same at all positions, of its own for each channel. (b, n, l): of
            its own at each position, the same for all channels. (b, g, n, l): likewise for each of g groups of
            neighbouring channels, d / g channels each.
        C: what reads y from the state; the same three forms, whichever of them B has.
        D: (d,), what passes u by the state; None leaves the term out.
        z: (b, d, l), the gate; None leaves the factor out.
        delta_bias: (d,), added to delta.
        delta_softplus: Δ is log(1 + exp(delta + delta_bias)), however large or small that is. Without it Δ may be
            negative.
        return_last_state: also return the state after the last position.

    Returns:
        out, (b, d, l), of u's dtype: a new tensor. With return_last_state (out, x_l), the state being (b, d, n) in the
        dtype of the computation. Both are differentiable in every tensor that was given, once. The arguments are left
        as they were.

    Raises:
        ValueError: B or C has none of its forms, or its g does not divide d; the message names B or C, its shape and d.
    """
    _check_forms(u, A, B, C)
    B, C = (each.unsqueeze(1) if each.dim() == 3 else each for each in (B, C))
    A, B, C = (each.float().contiguous() for each in (A, B, C))
    D, delta_bias = (None if each is None else each.float().contiguous() for each in (D, delta_bias))
    z = None if z is None else z.contiguous()
    out, state = _SelectiveScan.apply(u.contiguous(), delta.contiguous(), A, B, C, D, z, delta_bias, delta_softplus)
    return (out, state) if return_last_state else out


def _check_forms(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    (batch, channels, length), states = u.shape, A.size(1)
    for name, matrix in (("B", B), ("C", C)):
        groups = matrix.size(1) if matrix.dim() == 4 else 1
        forms = [(channels, states), (batch, states, length), (batch, groups, states, length)]
        if matrix.shape not in forms or channels % groups:
            raise ValueError(
                f"{name} has the shape {tuple(matrix.shape)}, not (d, n), (b, n, l) or (b, g, n, l) where b={batch}, "
                f"d={channels}, l={length}, n={states} and g divides d"
            )


# --- what is launched -----------------------------------------------------------------------------------------------
#
# A program owns CHANNELS channels of one sequence, with all n numbers of their states, and goes through the sequence in
# tiles of STEPS positions. Why so, on Hopper:
# - In a tile (STEPS, n, CHANNELS), the compiler deals channels and n out to threads, and each thread has all STEPS
#   positions of its states in registers: there a scan needs no exchange between threads and no more operations than a
#   loop would, one fused multiply-add for each number. The n exponentials for each of u take longer.
# - Even one sequence gives d / CHANNELS programs, of several warps; a thread for each channel would leave most of the
#   chip idle.
# - B and C are read once for all channels of a program. A program for each channel would read them, which are the same
#   for all, as often as there are channels, and that is more than all else that is read.
# - The gradients of B and C are sums over channels. Each program writes its share, n / CHANNELS numbers for each of u,
#   and the shares are added afterwards, always in the same order: no atomic addition.

_STEPS = 16  # of bfloat16, 32 bytes, the least that memory gives at a time
_FORWARD_TILE = (8, 2)  # CHANNELS and warps
_BACKWARD_TILE = (16, 4)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        bias: Tensor | None, softplus: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Of B and C, (d, n) or (b, g, n, l). All are contiguous; all but u, delta and z are float32."""
        (batch, channels, length), states = u.shape, A.size(1)
        grid, sizes, constants = _cut(u, A, B, C, _FORWARD_TILE)
        out = torch.empty_like(u)
        # The state at the end of each tile: what the backward pass begins from to compute those in the tile again.
        ends = A.new_empty(batch, triton.cdiv(length, constants["STEPS"]), states, channels)
        if batch > 0:
            _forward[grid](u, delta, A, B, C, D, z, bias, out, ends, *sizes, SOFTPLUS=softplus, **constants)
        ctx.save_for_backward(u, delta, A, B, C, D, z, bias, ends)
        ctx.softplus = softplus
        return out, ends[:, -1].mT.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, z, bias, ends = ctx.saved_tensors
        batch, channels, _ = u.shape
        grid, sizes, constants = _cut(u, A, B, C, _BACKWARD_TILE)
        du, ddelta = torch.empty_like(u), torch.empty_like(delta)
        dz = None if z is None else torch.empty_like(z)
        # What other programs too contribute to has a place for each of them, and is added up afterwards.
        dA = A.new_empty(batch, *A.shape)
        dB, dC = (A.new_empty(batch, *(x.shape if x.dim() == 2 else (grid[0], *x.shape[2:]))) for x in (B, C))
        dD, dbias = (None if x is None else x.new_empty(batch, channels) for x in (D, bias))
        if batch > 0:
            _backward[grid](
                u, delta, A, B, C, D, z, bias, ends, dout.contiguous(), dlast.contiguous(),
                du, ddelta, dA, dB, dC, dD, dz, dbias, *sizes, SOFTPLUS=ctx.softplus, **constants,
            )  # fmt: skip
        dB, dC = (
            dx.sum(0) if x.dim() == 2 else dx.unflatten(1, (x.size(1), -1)).sum(2) for x, dx in ((B, dB), (C, dC))
        )
        dD, dbias = (None if dx is None else dx.sum(0) for dx in (dD, dbias))
        return du, ddelta, dA.sum(0), dB, dC, dD, dz, dbias, None


def _cut(
    u: Tensor, A: Tensor, B: Tensor, C: Tensor, tile: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, ...], dict[str, Any]]:
    """The grid; the sizes that a kernel is told; and the constants that it is compiled with."""
    (batch, channels, length), states = u.shape, A.size(1)
    b_groups, c_groups = (x.size(1) if x.dim() == 4 else 1 for x in (B, C))
    shared = channels // math.lcm(b_groups, c_groups)  # neighbouring channels that have both B and C in common
    constants = {
        "B_VARIES": B.dim() == 4, "C_VARIES": C.dim() == 4,
        "STEPS": min(_STEPS, triton.next_power_of_2(length)), "STATES": triton.next_power_of_2(states),
        "CHANNELS": min(tile[0], triton.next_power_of_2(shared)), "num_warps": tile[1],
    }  # fmt: skip
    grid = channels // shared * triton.cdiv(shared, constants["CHANNELS"]), batch
    return grid, (channels, length, states, shared, channels // b_groups, channels // c_groups), constants


# --- kernels --------------------------------------------------------------------------------------------------------

_LOG2_E = tl.constexpr(math.log2(math.e))  # exp(x) = 2^(x log2(e)): the GPU's instruction is 2^x


@triton.jit
def _forward(
    U, DELTA, A, B, C, D, Z, BIAS, OUT, ENDS, d, l, n, shared, b_shared, c_shared, SOFTPLUS: tl.constexpr,
    B_VARIES: tl.constexpr, C_VARIES: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    batch, channels, mine = _place(d, shared, CHANNELS)
    numbers = tl.arange(0, STATES)
    in_state = (numbers < n)[:, None] & mine[None, :]
    log_decay = tl.load(A + channels[None, :] * n + numbers[:, None], mask=in_state, other=0.0) * _LOG2_E
    skip, bias = _row(D, channels, mine), _row(BIAS, channels, mine)
    x_end = tl.zeros([STATES, CHANNELS], tl.float32)

    for tile in range(tl.cdiv(l, STEPS)):
        steps = tile * STEPS + tl.arange(0, STEPS)
        at, mask = (batch * d + channels)[None, :] * l + steps[:, None], (steps < l)[:, None] & mine[None, :]
        u = tl.load(U + at, mask=mask, other=0.0).to(tl.float32)
        dt, _ = _step_sizes(DELTA, at, mask, bias, SOFTPLUS)
        b = _matrix(B, batch, steps, numbers, channels, mine, d, l, n, b_shared, B_VARIES)
        c = _matrix(C, batch, steps, numbers, channels, mine, d, l, n, c_shared, C_VARIES)

        x = _scan(tl.exp2(dt[:, None, :] * log_decay[None, :, :]), (dt * u)[:, None, :] * b, x_end)
        x_end = _pick(x, STEPS - 1)
        end_at = ((batch * tl.cdiv(l, STEPS) + tile) * n + numbers[:, None]) * d + channels[None, :]
        tl.store(ENDS + end_at, x_end, mask=in_state)
        y = tl.sum(x * c, 1) + skip * u
        if Z is not None:
            z = tl.load(Z + at, mask=mask, other=0.0).to(tl.float32)
            y *= z * tl.sigmoid(z)
        tl.store(OUT + at, y, mask=mask)


@triton.jit
def _backward(
    U, DELTA, A, B, C, D, Z, BIAS, ENDS, dOUT, dLAST, dU, dDELTA, dA, dB, dC, dD, dZ, dBIAS,
    d, l, n, shared, b_shared, c_shared, SOFTPLUS: tl.constexpr,
    B_VARIES: tl.constexpr, C_VARIES: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """From the last tile to the first: its states once more, and their gradients, which are a scan from the end:
    g_t = exp(Δ_{t+1} A) ⊙ g_{t+1} + C_t dy_t.
    """
    batch, channels, mine = _place(d, shared, CHANNELS)
    numbers = tl.arange(0, STATES)
    in_state = (numbers < n)[:, None] & mine[None, :]
    state_at = channels[None, :] * n + numbers[:, None]  # in (d, n)
    a = tl.load(A + state_at, mask=in_state, other=0.0)
    skip, bias = _row(D, channels, mine), _row(BIAS, channels, mine)
    g_start = tl.load(dLAST + batch * d * n + state_at, mask=in_state, other=0.0)
    da, db, dc = tl.zeros_like(a), tl.zeros_like(a), tl.zeros_like(a)
    dskip, dbias = tl.zeros([CHANNELS], tl.float32), tl.zeros([CHANNELS], tl.float32)

    for tiles_after in range(tl.cdiv(l, STEPS)):
        tile = tl.cdiv(l, STEPS) - 1 - tiles_after
        steps = tile * STEPS + tl.arange(0, STEPS)
        at, mask = (batch * d + channels)[None, :] * l + steps[:, None], (steps < l)[:, None] & mine[None, :]
        u = tl.load(U + at, mask=mask, other=0.0).to(tl.float32)
        dt, raw = _step_sizes(DELTA, at, mask, bias, SOFTPLUS)
        next_dt, _ = _step_sizes(DELTA, at + 1, mask & (steps + 1 < l)[:, None], bias, SOFTPLUS)
        b = _matrix(B, batch, steps, numbers, channels, mine, d, l, n, b_shared, B_VARIES)
        c = _matrix(C, batch, steps, numbers, channels, mine, d, l, n, c_shared, C_VARIES)
        dout = tl.load(dOUT + at, mask=mask, other=0.0).to(tl.float32)
        dy = dout
        if Z is not None:
            z = tl.load(Z + at, mask=mask, other=0.0).to(tl.float32)
            dy *= z * tl.sigmoid(z)

        end_at = ((batch * tl.cdiv(l, STEPS) + tile - 1) * n + numbers[:, None]) * d + channels[None, :]
        x_start = tl.load(ENDS + end_at, mask=in_state & (tile > 0), other=0.0)
        written = (dt * u)[:, None, :] * b
        x = _scan(tl.exp2(dt[:, None, :] * (a * _LOG2_E)[None, :, :]), written, x_start)
        g = _scan(
            tl.exp2(tl.flip(next_dt, 0)[:, None, :] * (a * _LOG2_E)[None, :, :]),
            tl.flip(dy, 0)[:, None, :] * (tl.flip(c, 0) if C_VARIES else c), g_start,
        )  # fmt: skip
        g_start = _pick(g, STEPS - 1)
        g = tl.flip(g, 0)

        if Z is not None:
            gate = tl.sigmoid(z)
            y = tl.sum(x * c, 1) + skip * u
            tl.store(dZ + at, dout * y * gate * (1 + z * (1 - gate)), mask=mask)
        dlog = g * (x - written)  # of Δ_t A, the decay's logarithm: g_t exp(Δ_t A) x_{t-1}
        dwritten = tl.sum(g * b, 1)  # of Δ_t u_t
        ddt = tl.where(mask, tl.sum(dlog * a[None, :, :], 1) + dwritten * u, 0.0)
        if SOFTPLUS:
            ddt *= tl.sigmoid(raw)
        tl.store(dU + at, dwritten * dt + dy * skip, mask=mask)
        tl.store(dDELTA + at, ddt, mask=mask)
        da += tl.sum(dlog * dt[:, None, :], 0)
        dskip += tl.sum(dy * u, 0)
        dbias += tl.sum(ddt, 0)
        db += _matrix_gradient(dB, g * (dt * u)[:, None, :], batch, steps, numbers, l, n, B_VARIES)
        dc += _matrix_gradient(dC, x * dy[:, None, :], batch, steps, numbers, l, n, C_VARIES)

    tl.store(dA + batch * d * n + state_at, da, mask=in_state)
    if not B_VARIES:
        tl.store(dB + batch * d * n + state_at, db, mask=in_state)
    if not C_VARIES:
        tl.store(dC + batch * d * n + state_at, dc, mask=in_state)
    if D is not None:
        tl.store(dD + batch * d + channels, dskip, mask=mine)
    if BIAS is not None:
        tl.store(dBIAS + batch * d + channels, dbias, mask=mine)


# --- the scan -------------------------------------------------------------------------------------------------------


@triton.jit
def _scan(decay, written, before):
    """x_t = decay_t x_{t-1} + written_t over the first dimension, with `before` as the x before the first."""
    is_first = (tl.arange(0, decay.shape[0]) == 0)[:, None, None]
    written += tl.where(is_first, decay * before[None, :, :], 0.0)
    return tl.associative_scan((decay, written), 0, _then)[1]


@triton.jit
def _then(decay, written, next_decay, next_written):
    """Two steps of the recurrence x -> decay x + written are one such step. Putting them together is associative."""
    return next_decay * decay, next_decay * written + next_written


@triton.jit
def _pick(x, POSITION: tl.constexpr):
    """x at one position. The others are no work: a thread has all positions, and knows which this is."""
    return tl.sum(tl.where((tl.arange(0, x.shape[0]) == POSITION)[:, None, None], x, 0.0), 0)


# --- loads ----------------------------------------------------------------------------------------------------------


@triton.jit
def _place(d, shared, CHANNELS: tl.constexpr):
    """The program's sequence, its channels, and which of them it has: no program has channels of two groups."""
    blocks = tl.cdiv(shared, CHANNELS)
    first = tl.program_id(0) // blocks * shared
    channels = first + tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    return tl.program_id(1).to(tl.int64), channels, channels < first + shared


@triton.jit
def _row(X, channels, mine):
    """(1, CHANNELS), or 0 where X is None."""
    if X is None:
        return 0.0
    else:
        return tl.load(X + channels, mask=mine, other=0.0)[None, :]


@triton.jit
def _matrix(B, batch, steps, numbers, channels, mine, d, l, n, shared, VARIES: tl.constexpr):
    """B or C, (STEPS, STATES, 1), or (1, STATES, CHANNELS) where it is the same at all positions."""
    if VARIES:
        group = batch * (d // shared) + tl.min(channels) // shared
        at = (group * n + numbers[None, :]) * l + steps[:, None]
        return tl.load(B + at, mask=(numbers < n)[None, :] & (steps < l)[:, None], other=0.0)[:, :, None]
    else:
        at = channels[None, :] * n + numbers[:, None]
        return tl.load(B + at, mask=(numbers < n)[:, None] & mine[None, :], other=0.0)[None, :, :]


@triton.jit
def _matrix_gradient(dB, terms, batch, steps, numbers, l, n, VARIES: tl.constexpr):
    """What the tile contributes: (STATES, CHANNELS), or 0 where it is stored, as a sum over the program's channels."""
    if VARIES:
        block = batch * tl.num_programs(0) + tl.program_id(0)
        at = (block * n + numbers[None, :]) * l + steps[:, None]
        tl.store(dB + at, tl.sum(terms, 2), mask=(numbers < n)[None, :] & (steps < l)[:, None])
        return 0.0
    else:
        return tl.sum(terms, 0)


@triton.jit
def _step_sizes(DELTA, at, mask, bias, SOFTPLUS: tl.constexpr):
    """Δ, which is 0 beyond the sequence, where so nothing is forgotten or written; and delta + delta_bias."""
    raw = tl.load(DELTA + at, mask=mask, other=0.0).to(tl.float32) + bias
    dt = raw
    if SOFTPLUS:
        e = tl.exp(-tl.abs(raw))
        sum = 1.0 + e  # rounded; what it lost is made up for by the factor e / (sum - 1)
        dt = tl.maximum(raw, 0.0) + tl.where(sum == 1.0, e, tl.log(sum) * (e / tl.maximum(sum - 1.0, 1e-9)))
    return tl.where(mask, dt, 0.0), raw

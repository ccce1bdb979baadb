"""The selective scan of Mamba (Gu & Dao 2023, arXiv:2312.00752, section 3.3) as Triton kernels, forward and backward.

Sizes in the shapes below: b batch, d channels, l length, n numbers in the state of one channel, g groups of channels.
Capital A, B, C and D are the paper's matrices. A tile is CHANNELS channels by STEPS positions of one sequence.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

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
    _check_forms(u, A, B, C)
    B, C = (each.unsqueeze(1) if each.dim() == 3 else each for each in (B, C))
    A, B, C = (each.float().contiguous() for each in (A, B, C))
    D, delta_bias = (None if each is None else each.float().contiguous() for each in (D, delta_bias))
    z = None if z is None else z.contiguous()
    out, state = _SelectiveScan.apply(delta_softplus, u.contiguous(), delta.contiguous(), A, B, C, D, z, delta_bias)
    return (out, state) if return_last_state else out


def _check_forms(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    (batch, channels, length), states = u.shape, A.size(1)
    for name, matrix in (("B", B), ("C", C)):
        groups = matrix.size(1) if matrix.dim() == 4 else 1
        forms = [(channels, states), (batch, states, length), (batch, groups, states, length)]
        if matrix.shape not in forms or channels % groups:
            raise ValueError(
                f"{name} has shape {tuple(matrix.shape)}, not (d, n), (b, n, l) or (b, g, n, l) where b={batch}, "
                f"d={channels}, l={length}, n={states} and g divides d"
            )


# --- launching ------------------------------------------------------------------------------------------------------
#
# A program owns CHANNELS channels of one sequence, with all n numbers of their states, and walks along the sequence in
# tiles of STEPS positions. Why this suits Hopper:
# - The compiler distributes the channels and the n of a tile (STEPS, n, CHANNELS) over threads; each thread holds all
#   STEPS positions of its states in registers. A scan then needs no exchange between threads and no more operations
#   than a loop: one fused multiply-add per number. The exponentials, n for each number of u, take longer.
# - Even one sequence makes d / CHANNELS programs of several warps. One thread per channel would leave most of the chip
#   idle.
# - A program reads B and C once for all its channels. One program per channel would read them once per channel, which
#   is more than everything else that is read.
# - The gradients of B and C are sums over channels. Each program writes its share, n / CHANNELS numbers for each number
#   of u, and PyTorch adds the shares, always in the same order: no atomic additions.

_STEPS = 16  # 32 bytes of bfloat16, the least that memory delivers at a time
_FORWARD_TILE = (8, 2)  # CHANNELS, warps
_BACKWARD_TILE = (16, 4)


class _Inputs(NamedTuple):
    """The tensors that both kernels read, all contiguous; in a kernel, pointers to them.

    Backward fills a second one, dX, with gradients: that of X.u is dX.u, and so on.
    """

    u: Tensor  # (b, d, l)
    delta: Tensor  # (b, d, l)
    A: Tensor  # (d, n), float32, as B, C, D and bias
    B: Tensor  # (d, n) or (b, g, n, l)
    C: Tensor  # (d, n) or (b, g, n, l)
    D: Tensor | None  # (d,)
    z: Tensor | None  # (b, d, l)
    bias: Tensor | None  # (d,)


class _Sizes(NamedTuple):
    d: int
    l: int
    n: int
    shared: int  # neighbouring channels that have both B and C in common
    b_shared: int | None  # neighbouring channels that have B in common; None where B is (d, n)
    c_shared: int | None  # the same for C


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, softplus: bool, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """The fields of _Inputs -> out (b, d, l) and the last state (b, d, n)."""
        X = _Inputs._make(inputs)
        grid, sizes, constants = _cut(X, _FORWARD_TILE)
        out = torch.empty_like(X.u)
        # The state at the end of each tile: from these backward computes the states in between again.
        ends = X.A.new_empty(X.u.size(0), triton.cdiv(sizes.l, constants["STEPS"]), sizes.n, sizes.d)
        if out.numel() > 0:
            _forward[grid](X, out, ends, sizes, SOFTPLUS=softplus, **constants)
        ctx.save_for_backward(*X, ends)
        ctx.softplus = softplus
        return out, ends[:, -1].mT.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, ends = ctx.saved_tensors
        X = _Inputs._make(inputs)
        grid, sizes, constants = _cut(X, _BACKWARD_TILE)
        dX = _Inputs._make(_shares(x, grid) for x in X)
        dout, dlast = dout.contiguous(), dlast.contiguous()
        if dout.numel() > 0:
            _backward[grid](X, ends, dout, dlast, dX, sizes, SOFTPLUS=ctx.softplus, **constants)
        return None, *(_add_up(dx, x) for dx, x in zip(dX, X, strict=True))


def _cut(X: _Inputs, tile: tuple[int, int]) -> tuple[tuple[int, int], _Sizes, dict[str, int]]:
    """The grid (programs per sequence, b), the sizes, and the constants that a kernel is compiled with."""
    (batch, channels, length), states = X.u.shape, X.A.size(1)
    b_shared, c_shared = (channels // x.size(1) if x.dim() == 4 else None for x in (X.B, X.C))
    shared = math.gcd(b_shared or channels, c_shared or channels)
    constants = {
        "STEPS": min(_STEPS, triton.next_power_of_2(length)),
        "STATES": triton.next_power_of_2(states),
        "CHANNELS": min(tile[0], triton.next_power_of_2(shared)),
        "num_warps": tile[1],
    }
    grid = channels // shared * triton.cdiv(shared, constants["CHANNELS"]), batch
    return grid, _Sizes(channels, length, states, shared, b_shared, c_shared), constants


def _shares(x: Tensor | None, grid: tuple[int, int]) -> Tensor | None:
    """Memory for the gradient of x: where several programs contribute to one number, one place for each of them."""
    if x is None or x.dim() == 3:  # u, delta, z: each number has one contributor
        return None if x is None else torch.empty_like(x)
    programs, batch = grid
    if x.dim() == 4:  # B, C: each program of a group has a share
        return x.new_empty(batch, programs, *x.shape[2:])
    return x.new_empty(batch, *x.shape)  # each sequence has a share


def _add_up(shares: Tensor | None, x: Tensor | None) -> Tensor | None:
    """The gradient of x."""
    if shares is None or x is None or x.dim() == 3:
        return shares
    if x.dim() == 4:
        return shares.unflatten(1, (x.size(1), -1)).sum(2)  # over the programs of each group
    return shares.sum(0)


# --- kernels --------------------------------------------------------------------------------------------------------


@triton.jit
def _forward(
    X,  # _Inputs
    OUT,  # (b, d, l), written
    ENDS,  # (b, tiles, n, d), written
    sizes,  # _Sizes
    SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """From the first tile to the last: x_t = exp(Δ_t A) ⊙ x_{t-1} + Δ_t B_t u_t."""
    d, l, n = sizes.d, sizes.l, sizes.n
    batch, channels, mine = _channels(sizes, CHANNELS)  # a number, (CHANNELS,), (CHANNELS,)
    numbers = tl.arange(0, STATES)
    state_at, in_state = channels[None, :] * n + numbers[:, None], (numbers < n)[:, None] & mine[None, :]
    A = tl.load(X.A + state_at, mask=in_state, other=0.0)  # (STATES, CHANNELS)
    D, bias = _row(X.D, channels, mine), _row(X.bias, channels, mine)  # (1, CHANNELS)
    x_end = tl.zeros([STATES, CHANNELS], tl.float32)  # the state at the end of the tile before

    tiles = tl.cdiv(l, STEPS)
    for tile in range(tiles):
        steps = tile * STEPS + tl.arange(0, STEPS)
        at, mask = (batch * d + channels)[None, :] * l + steps[:, None], (steps < l)[:, None] & mine[None, :]
        u = tl.load(X.u + at, mask=mask, other=0.0).to(tl.float32)  # (STEPS, CHANNELS)
        dt, _ = _step_sizes(X.delta, at, mask, bias, SOFTPLUS)  # (STEPS, CHANNELS)
        B = _matrix(X.B, sizes.b_shared, batch, steps, numbers, channels, mine, sizes)  # (STEPS, STATES, 1) or
        C = _matrix(X.C, sizes.c_shared, batch, steps, numbers, channels, mine, sizes)  # (1, STATES, CHANNELS)

        x = _scan(_decays(dt, A), (dt * u)[:, None, :] * B, x_end)  # (STEPS, STATES, CHANNELS)
        x_end = _pick(x, STEPS - 1)  # (STATES, CHANNELS)
        end_at = ((batch * tiles + tile) * n + numbers[:, None]) * d + channels[None, :]
        tl.store(ENDS + end_at, x_end, mask=in_state)
        y = tl.sum(x * C, 1) + D * u  # (STEPS, CHANNELS)
        gate, _ = _gate(X.z, at, mask)  # (STEPS, CHANNELS)
        tl.store(OUT + at, y * gate, mask=mask)


@triton.jit
def _backward(
    X,  # _Inputs
    ENDS,  # (b, tiles, n, d)
    dOUT,  # (b, d, l)
    dLAST,  # (b, d, n), the gradient of the last state
    dX,  # _Inputs, written: the gradients, or this program's shares of them
    sizes,  # _Sizes
    SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """From the last tile to the first: g_t = C_t dy_t + exp(Δ_{t+1} A) ⊙ g_{t+1}, the gradient of x_t.

    All other gradients follow from g and the states, which are computed again from the end of the tile before.
    """
    d, l, n = sizes.d, sizes.l, sizes.n
    batch, channels, mine = _channels(sizes, CHANNELS)
    numbers = tl.arange(0, STATES)
    state_at, in_state = channels[None, :] * n + numbers[:, None], (numbers < n)[:, None] & mine[None, :]
    A = tl.load(X.A + state_at, mask=in_state, other=0.0)  # (STATES, CHANNELS)
    D, bias = _row(X.D, channels, mine), _row(X.bias, channels, mine)  # (1, CHANNELS)
    dA, dB, dC = tl.zeros_like(A), tl.zeros_like(A), tl.zeros_like(A)  # (STATES, CHANNELS)
    dD, dbias = tl.zeros([CHANNELS], tl.float32), tl.zeros([CHANNELS], tl.float32)  # (CHANNELS,)
    # g at the start of the tile after. dLAST enters undecayed, because Δ is 0 beyond the sequence.
    g_start = tl.load(dLAST + batch * d * n + state_at, mask=in_state, other=0.0)  # (STATES, CHANNELS)

    tiles = tl.cdiv(l, STEPS)
    for tiles_after in range(tiles):
        tile = tiles - 1 - tiles_after
        steps = tile * STEPS + tl.arange(0, STEPS)
        at, mask = (batch * d + channels)[None, :] * l + steps[:, None], (steps < l)[:, None] & mine[None, :]
        u = tl.load(X.u + at, mask=mask, other=0.0).to(tl.float32)  # (STEPS, CHANNELS)
        dt, dt_slope = _step_sizes(X.delta, at, mask, bias, SOFTPLUS)  # (STEPS, CHANNELS)
        next_dt, _ = _step_sizes(X.delta, at + 1, mask & (steps + 1 < l)[:, None], bias, SOFTPLUS)  # of t + 1
        B = _matrix(X.B, sizes.b_shared, batch, steps, numbers, channels, mine, sizes)  # (STEPS, STATES, 1) or
        C = _matrix(X.C, sizes.c_shared, batch, steps, numbers, channels, mine, sizes)  # (1, STATES, CHANNELS)
        dout = tl.load(dOUT + at, mask=mask, other=0.0).to(tl.float32)  # (STEPS, CHANNELS)
        gate, gate_slope = _gate(X.z, at, mask)  # (STEPS, CHANNELS)
        dy = dout * gate  # (STEPS, CHANNELS)

        # The states again, and their gradients.
        end_at = ((batch * tiles + tile - 1) * n + numbers[:, None]) * d + channels[None, :]
        x_start = tl.load(ENDS + end_at, mask=in_state & (tile > 0), other=0.0)  # (STATES, CHANNELS)
        written = (dt * u)[:, None, :] * B  # (STEPS, STATES, CHANNELS)
        x = _scan(_decays(dt, A), written, x_start)  # (STEPS, STATES, CHANNELS)
        g = _scan_back(_decays(next_dt, A), dy[:, None, :] * C, g_start)  # (STEPS, STATES, CHANNELS)
        g_start = _pick(g, 0)  # (STATES, CHANNELS)

        # The gradients of u, delta and z.
        if X.z is not None:
            y = tl.sum(x * C, 1) + D * u  # (STEPS, CHANNELS)
            tl.store(dX.z + at, dout * y * gate_slope, mask=mask)
        dlog = g * (x - written)  # (STEPS, STATES, CHANNELS), of Δ_t A: g_t exp(Δ_t A) x_{t-1}
        dwritten = tl.sum(g * B, 1)  # (STEPS, CHANNELS), of Δ_t u_t
        ddelta = (tl.sum(dlog * A[None, :, :], 1) + dwritten * u) * dt_slope  # (STEPS, CHANNELS)
        tl.store(dX.u + at, dwritten * dt + dy * D, mask=mask)
        tl.store(dX.delta + at, ddelta, mask=mask)
        # The gradients that are sums over positions.
        dA += tl.sum(dlog * dt[:, None, :], 0)
        dD += tl.sum(dy * u, 0)
        dbias += tl.sum(ddelta, 0)
        dB += _matrix_share(dX.B, sizes.b_shared, g * (dt * u)[:, None, :], batch, steps, numbers, sizes)
        dC += _matrix_share(dX.C, sizes.c_shared, x * dy[:, None, :], batch, steps, numbers, sizes)

    tl.store(dX.A + batch * d * n + state_at, dA, mask=in_state)
    if sizes.b_shared is None:
        tl.store(dX.B + batch * d * n + state_at, dB, mask=in_state)
    if sizes.c_shared is None:
        tl.store(dX.C + batch * d * n + state_at, dC, mask=in_state)
    if X.D is not None:
        tl.store(dX.D + batch * d + channels, dD, mask=mine)
    if X.bias is not None:
        tl.store(dX.bias + batch * d + channels, dbias, mask=mine)


# --- scans ----------------------------------------------------------------------------------------------------------

_LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def _decays(dt, A):
    """exp(Δ A), (STEPS, STATES, CHANNELS), as 2^(Δ A log2(e)): the GPU's instruction is 2^x."""
    return tl.exp2(dt[:, None, :] * (A * _LOG2_E)[None, :, :])


@triton.jit
def _scan(decay, written, before):
    """x_t = decay_t x_{t-1} + written_t over the first dimension, where `before` is the x before the first."""
    is_first = (tl.arange(0, decay.shape[0]) == 0)[:, None, None]
    written += tl.where(is_first, decay * before[None, :, :], 0.0)
    return tl.associative_scan((decay, written), 0, _then)[1]


@triton.jit
def _scan_back(decay, written, after):
    """g_t = decay_t g_{t+1} + written_t, where `after` is the g after the last. To flip what a thread holds is free."""
    return tl.flip(_scan(tl.flip(decay, 0), tl.flip(written, 0), after), 0)


@triton.jit
def _then(decay, written, next_decay, next_written):
    """Two steps of the recurrence x -> decay x + written are again one such step; combining them is associative."""
    return next_decay * decay, next_decay * written + next_written


@triton.jit
def _pick(x, POSITION: tl.constexpr):
    """x at one position. The sum costs nothing: each thread holds all positions and knows which one this is."""
    return tl.sum(tl.where((tl.arange(0, x.shape[0]) == POSITION)[:, None, None], x, 0.0), 0)


# --- what a program reads and writes --------------------------------------------------------------------------------


@triton.jit
def _channels(sizes, CHANNELS: tl.constexpr):
    """The program's sequence, CHANNELS channels, and which of them are its own: none of the next group."""
    blocks = tl.cdiv(sizes.shared, CHANNELS)
    first = tl.program_id(0) // blocks * sizes.shared
    channels = first + tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    return tl.program_id(1).to(tl.int64), channels, channels < first + sizes.shared


@triton.jit
def _row(X, channels, mine):
    """X (d,) as (1, CHANNELS), or 0 where X is None."""
    if X is None:
        return 0.0
    else:
        return tl.load(X + channels, mask=mine, other=0.0)[None, :]


@triton.jit
def _matrix(B, shared, batch, steps, numbers, channels, mine, sizes):
    """B or C: (STEPS, STATES, 1), or (1, STATES, CHANNELS) where it is the same at all positions."""
    if shared is None:
        at = channels[None, :] * sizes.n + numbers[:, None]
        return tl.load(B + at, mask=(numbers < sizes.n)[:, None] & mine[None, :], other=0.0)[None, :, :]
    else:
        group = batch * (sizes.d // shared) + tl.min(channels) // shared
        at = (group * sizes.n + numbers[None, :]) * sizes.l + steps[:, None]
        return tl.load(B + at, mask=(numbers < sizes.n)[None, :] & (steps < sizes.l)[:, None], other=0.0)[:, :, None]


@triton.jit
def _matrix_share(dB, shared, terms, batch, steps, numbers, sizes):
    """What a tile adds to the gradient of B or C.

    Where B is the same at all positions, the sum over them, (STATES, CHANNELS). Otherwise the sum over the channels is
    stored as this program's share, and nothing is left to add.
    """
    if shared is None:
        return tl.sum(terms, 0)
    else:
        program = batch * tl.num_programs(0) + tl.program_id(0)
        at = (program * sizes.n + numbers[None, :]) * sizes.l + steps[:, None]
        tl.store(dB + at, tl.sum(terms, 2), mask=(numbers < sizes.n)[None, :] & (steps < sizes.l)[:, None])
        return 0.0


@triton.jit
def _gate(Z, at, mask):
    """silu(z) and its derivative, (STEPS, CHANNELS); 1 and 0 where there is no z."""
    if Z is None:
        return 1.0, 0.0
    else:
        z = tl.load(Z + at, mask=mask, other=0.0).to(tl.float32)
        s = tl.sigmoid(z)
        return z * s, s * (1 + z * (1 - s))


@triton.jit
def _step_sizes(DELTA, at, mask, bias, SOFTPLUS: tl.constexpr):
    """Δ and its derivative by delta, (STEPS, CHANNELS). Beyond the sequence both are 0: no forgetting, no writing."""
    dt = tl.load(DELTA + at, mask=mask, other=0.0).to(tl.float32) + bias
    slope = 1.0
    if SOFTPLUS:  # max(x, 0) + log(1 + e), where e = exp(-|x|) cannot overflow
        e = tl.exp(-tl.abs(dt))
        total = 1.0 + e  # rounded; the factor e / (total - 1) makes up for what is lost
        log1p = tl.where(total == 1.0, e, tl.log(total) * (e / tl.maximum(total - 1.0, 1e-9)))
        slope = tl.where(dt > 0, 1.0, e) / total  # sigmoid
        dt = tl.maximum(dt, 0.0) + log1p
    return tl.where(mask, dt, 0.0), tl.where(mask, slope, 0.0)

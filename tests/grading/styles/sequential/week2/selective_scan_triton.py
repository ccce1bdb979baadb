"""A sequential loop over positions; softplus, skip and gate are PyTorch's; atomics accumulate shared gradients."""

import torch
import triton
import triton.language as tl
from torch.nn import functional as F

EVERY = 16  # positions from one kept state to the next
WIDTH = 16  # channels of a program


@triton.jit
def decay_and_input(DT, U, A, B, at, where_b, t, stride_t, ok, both):
    dt = tl.load(DT + at + t, mask=ok, other=0.0)[:, None]
    u = tl.load(U + at + t, mask=ok, other=0.0)[:, None]
    b = tl.load(B + where_b + t * stride_t, mask=both, other=0.0)
    return tl.exp(dt * A), dt, u, b


@triton.jit
def ahead(
    U, DT, A, B, C, Y, KEPT, LAST, d, l, n, b_batch, b_group, b_n, b_t, b_share, c_batch, c_group, c_n, c_t, c_share,
    WIDTH: tl.constexpr, N: tl.constexpr, EVERY: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    number = tl.arange(0, N)
    ok = channel < d
    both = ok[:, None] & (number < n)[None, :]
    at = (batch * d + channel) * l
    state_at = channel[:, None] * n + number[None, :]
    where_b = batch * b_batch + (channel // b_share)[:, None] * b_group + number[None, :] * b_n
    where_c = batch * c_batch + (channel // c_share)[:, None] * c_group + number[None, :] * c_n
    a = tl.load(A + state_at, mask=both, other=0.0)
    x = tl.zeros([WIDTH, N], tl.float32)
    for t in range(l):
        if t % EVERY == 0:
            tl.store(KEPT + (batch * tl.cdiv(l, EVERY) + t // EVERY) * d * n + state_at, x, mask=both)
        decay, dt, u, b = decay_and_input(DT, U, a, B, at, where_b, t, b_t, ok, both)
        x = decay * x + dt * u * b
        c = tl.load(C + where_c + t * c_t, mask=both, other=0.0)
        tl.store(Y + at + t, tl.sum(x * c, 1), mask=ok)
    tl.store(LAST + batch * d * n + state_at, x, mask=both)


@triton.jit
def back(
    U, DT, A, B, C, KEPT, NOTES, dY, dLAST, dU, dDT, dA, dB, dC, d, l, n,
    b_batch, b_group, b_n, b_t, b_share, c_batch, c_group, c_n, c_t, c_share,
    WIDTH: tl.constexpr, N: tl.constexpr, EVERY: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    number = tl.arange(0, N)
    ok = channel < d
    both = ok[:, None] & (number < n)[None, :]
    at = (batch * d + channel) * l
    state_at = channel[:, None] * n + number[None, :]
    where_b = batch * b_batch + (channel // b_share)[:, None] * b_group + number[None, :] * b_n
    where_c = batch * c_batch + (channel // c_share)[:, None] * c_group + number[None, :] * c_n
    a = tl.load(A + state_at, mask=both, other=0.0)
    g = tl.load(dLAST + batch * d * n + state_at, mask=both, other=0.0)
    da = tl.zeros([WIDTH, N], tl.float32)
    stretches = tl.cdiv(l, EVERY)
    for i in range(stretches):
        first = (stretches - 1 - i) * EVERY
        count = tl.minimum(l - first, EVERY)
        x = tl.load(KEPT + (batch * stretches + first // EVERY) * d * n + state_at, mask=both, other=0.0)
        for s in range(count):
            tl.store(NOTES + (batch * EVERY + s) * d * n + state_at, x, mask=both)
            decay, dt, u, b = decay_and_input(DT, U, a, B, at, where_b, first + s, b_t, ok, both)
            x = decay * x + dt * u * b
        tl.debug_barrier()
        for s in range(count):
            t = first + count - 1 - s
            before = tl.load(NOTES + (batch * EVERY + t - first) * d * n + state_at, mask=both, other=0.0)
            decay, dt, u, b = decay_and_input(DT, U, a, B, at, where_b, t, b_t, ok, both)
            dy = tl.load(dY + at + t, mask=ok, other=0.0)[:, None]
            c = tl.load(C + where_c + t * c_t, mask=both, other=0.0)
            tl.atomic_add(dC + where_c + t * c_t, dy * (decay * before + dt * u * b), mask=both)
            g += dy * c
            tl.atomic_add(dB + where_b + t * b_t, g * dt * u, mask=both)
            faded = g * decay * before
            written = tl.sum(g * b, 1)
            tl.store(dU + at + t, written * tl.sum(dt, 1), mask=ok)
            tl.store(dDT + at + t, written * tl.sum(u, 1) + tl.sum(faded * a, 1), mask=ok)
            da += faded * dt
            g *= decay
        tl.debug_barrier()
    tl.atomic_add(dA + state_at, da, mask=both)


def strides(x, channels):
    """Of the batch, the group, the number, the position; and how many channels a group has."""
    if x.dim() == 2:
        return 0, x.stride(0), x.stride(1), 0, 1
    return *x.stride(), channels // x.size(1)


class Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, dt, A, B, C):
        (batch, channels, length), states = u.shape, A.size(1)
        y, last = torch.empty_like(u), u.new_empty(batch, channels, states)
        kept = u.new_empty(batch, triton.cdiv(length, EVERY), channels, states)
        ctx.numbers = channels, length, states, *strides(B, channels), *strides(C, channels)
        ctx.grid = batch, triton.cdiv(channels, WIDTH)
        if batch:
            N = triton.next_power_of_2(states)
            ahead[ctx.grid](u, dt, A, B, C, y, kept, last, *ctx.numbers, WIDTH, N, EVERY, num_warps=2)
        ctx.save_for_backward(u, dt, A, B, C, kept)
        return y, last

    @staticmethod
    def backward(ctx, dy, dlast):
        *inputs, kept = ctx.saved_tensors
        gradients = [torch.zeros_like(x) for x in inputs]
        if dy.numel():
            N = triton.next_power_of_2(inputs[2].size(1))
            notes = kept.new_empty(kept.size(0), EVERY, *kept.shape[2:])
            above = dy.contiguous(), dlast.contiguous()
            back[ctx.grid](*inputs, kept, notes, *above, *gradients, *ctx.numbers, WIDTH, N, EVERY, num_warps=2)
        return tuple(gradients)


def selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # fmt: skip
    batch, channels, length = u.shape
    for name, x in {"B": B, "C": C}.items():
        fits = {
            2: tuple(x.shape) == tuple(A.shape),
            3: tuple(x.shape) == (batch, A.shape[1], length),
            4: x.dim() == 4
            and tuple(x.shape) == (batch, x.shape[1], A.shape[1], length)
            and channels % x.shape[1] == 0,
        }
        if not fits.get(x.dim(), False):
            raise ValueError(f"{name}: {tuple(x.shape)} does not go with {channels} channels")
    dtype = u.dtype
    u, dt, A, B, C = (x.float().contiguous() for x in (u, delta, A, B, C))
    dt = dt if delta_bias is None else dt + delta_bias.float()[:, None]
    dt = F.softplus(dt) if delta_softplus else dt
    B, C = (x[:, None] if x.dim() == 3 else x for x in (B, C))
    out, last = Scan.apply(u, dt, A, B, C)
    out = out if D is None else out + D.float()[:, None] * u
    out = (out if z is None else out * F.silu(z.float())).to(dtype)
    return (out, last) if return_last_state else out

"""All chunks in parallel: their final states, how these combine, then each chunk from its initial state. Time is last.

A program handles one channel and one chunk, as a tile of states by positions; all tensors are addressed by strides.
"""

import torch
import triton
import triton.language as tl

CHUNK = 32


@triton.jit
def joined(a, x, b, y):
    return a * b, b * x + y


@triton.jit
def softplus(v):
    small = tl.exp(-tl.abs(v))
    near = small * (1 - small * (0.5 - small * (0.33333333 - small * 0.25)))  # the series of log(1 + small)
    return tl.maximum(v, 0) + tl.where(small < 0.01, near, tl.log(1 + small))


@triton.jit
def steps_at(DELTA, i, j, k, BIAS, b, c, t, l, SOFTPLUS: tl.constexpr):
    v = tl.load(DELTA + b * i + c * j + t * k, mask=t < l, other=0).to(tl.float32)
    if BIAS is not None:
        v += tl.load(BIAS + c).to(tl.float32)
    slope = 1.0
    if SOFTPLUS:
        slope = 1 / (1 + tl.exp(-v))
        v = softplus(v)
    return tl.where(t < l, v, 0.0), slope


@triton.jit
def matrix(X, i, j, k, m, share, b, c, s, t, n, l):
    at = b * i + (c // share) * j + s[:, None] * k + t[None, :] * m
    return at, (s < n)[:, None] & (t < l)[None, :]


@triton.jit
def ends(
    U, u1, u2, u3, DELTA, e1, e2, e3, BIAS, A, a1, a2, B, b1, b2, b3, b4, b5, END, DECAY, d, l, n,
    SOFTPLUS: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    b, c, chunk = (tl.program_id(0) // d).to(tl.int64), tl.program_id(0) % d, tl.program_id(1)
    t, s = chunk * CHUNK + tl.arange(0, CHUNK), tl.arange(0, N)
    step, _ = steps_at(DELTA, e1, e2, e3, BIAS, b, c, t, l, SOFTPLUS)
    u = tl.load(U + b * u1 + c * u2 + t * u3, mask=t < l, other=0).to(tl.float32)
    a = tl.load(A + c * a1 + s * a2, mask=s < n, other=0).to(tl.float32)
    at, ok = matrix(B, b1, b2, b3, b4, b5, b, c, s, t, n, l)
    put = tl.load(B + at, mask=ok, other=0).to(tl.float32) * (step * u)[None, :]
    decay, x = tl.reduce((tl.exp(a[:, None] * step[None, :]), put), 1, joined)
    where = ((b * tl.num_programs(1) + chunk) * d + c) * n + s
    tl.store(END + where, x, mask=s < n)
    tl.store(DECAY + where, decay, mask=s < n)


@triton.jit
def join(BEGIN, DECAY, END, LAST, chunks, size, BACK: tl.constexpr, BLOCK: tl.constexpr):
    """From what each chunk ends with to what it begins with, in place of END; `LAST` is what comes out at the end."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(BEGIN + b * size + i, mask=i < size, other=0)
    for k in range(chunks):
        chunk = chunks - 1 - k if BACK else k
        where = (b * chunks + chunk) * size + i
        end = tl.load(END + where, mask=i < size, other=0)
        tl.store(END + where, x, mask=i < size)
        x = tl.load(DECAY + where, mask=i < size, other=0) * x + end
    tl.store(LAST + b * size + i, x, mask=i < size)


@triton.jit
def outputs(
    U, u1, u2, u3, DELTA, e1, e2, e3, BIAS, A, a1, a2, B, b1, b2, b3, b4, b5, C, c1, c2, c3, c4, c5,
    D, Z, z1, z2, z3, BEGIN, OUT, d, l, n, SOFTPLUS: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    b, c, chunk = (tl.program_id(0) // d).to(tl.int64), tl.program_id(0) % d, tl.program_id(1)
    t, s = chunk * CHUNK + tl.arange(0, CHUNK), tl.arange(0, N)
    step, _ = steps_at(DELTA, e1, e2, e3, BIAS, b, c, t, l, SOFTPLUS)
    u = tl.load(U + b * u1 + c * u2 + t * u3, mask=t < l, other=0).to(tl.float32)
    a = tl.load(A + c * a1 + s * a2, mask=s < n, other=0).to(tl.float32)
    at, ok = matrix(B, b1, b2, b3, b4, b5, b, c, s, t, n, l)
    put = tl.load(B + at, mask=ok, other=0).to(tl.float32) * (step * u)[None, :]
    decay, x = tl.associative_scan((tl.exp(a[:, None] * step[None, :]), put), 1, joined)
    x += decay * tl.load(BEGIN + ((b * tl.num_programs(1) + chunk) * d + c) * n + s, mask=s < n, other=0)[:, None]
    at, ok = matrix(C, c1, c2, c3, c4, c5, b, c, s, t, n, l)
    y = tl.sum(x * tl.load(C + at, mask=ok, other=0).to(tl.float32), 0)
    if D is not None:
        y += tl.load(D + c).to(tl.float32) * u
    if Z is not None:
        z = tl.load(Z + b * z1 + c * z2 + t * z3, mask=t < l, other=0).to(tl.float32)
        y = y * z / (1 + tl.exp(-z))
    tl.store(OUT + (b * d + c) * l + t, y.to(OUT.dtype.element_ty), mask=t < l)


@triton.jit
def gradients(
    U, u1, u2, u3, DELTA, e1, e2, e3, BIAS, A, a1, a2, B, b1, b2, b3, b4, b5, C, c1, c2, c3, c4, c5,
    D, Z, z1, z2, z3, ABOVE, o1, o2, o3, BEGIN, LATER, FADED, dU, dDELTA, dA, dB, dC, dD, dZ, dBIAS, d, l, n,
    SOFTPLUS: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr, FIRST_PASS: tl.constexpr,
):  # fmt: skip
    """In its first pass: what the scan from the end has at each chunk's beginning. In the second: all gradients."""
    b, c, chunk = (tl.program_id(0) // d).to(tl.int64), tl.program_id(0) % d, tl.program_id(1)
    t, s = chunk * CHUNK + tl.arange(0, CHUNK), tl.arange(0, N)
    step, slope = steps_at(DELTA, e1, e2, e3, BIAS, b, c, t, l, SOFTPLUS)
    next_step, _ = steps_at(DELTA, e1, e2, e3, BIAS, b, c, t + 1, l, SOFTPLUS)
    u = tl.load(U + b * u1 + c * u2 + t * u3, mask=t < l, other=0).to(tl.float32)
    a = tl.load(A + c * a1 + s * a2, mask=s < n, other=0).to(tl.float32)
    above = tl.load(ABOVE + b * o1 + c * o2 + t * o3, mask=t < l, other=0).to(tl.float32)
    dy = above
    if Z is not None:
        z = tl.load(Z + b * z1 + c * z2 + t * z3, mask=t < l, other=0).to(tl.float32)
        half = 1 / (1 + tl.exp(-z))
        dy = above * z * half
    at_c, ok = matrix(C, c1, c2, c3, c4, c5, b, c, s, t, n, l)
    read = tl.load(C + at_c, mask=ok, other=0).to(tl.float32)
    faded, g = tl.associative_scan(
        (tl.exp(a[:, None] * next_step[None, :]), dy[None, :] * read), 1, joined, reverse=True
    )
    where = ((b * tl.num_programs(1) + chunk) * d + c) * n + s
    if FIRST_PASS:
        first = (tl.arange(0, CHUNK) == 0)[None, :]
        tl.store(LATER + where, tl.sum(tl.where(first, g, 0.0), 1), mask=s < n)
        tl.store(FADED + where, tl.sum(tl.where(first, faded, 0.0), 1), mask=s < n)
    else:
        g += faded * tl.load(LATER + where, mask=s < n, other=0)[:, None]
        at_b, ok = matrix(B, b1, b2, b3, b4, b5, b, c, s, t, n, l)
        write = tl.load(B + at_b, mask=ok, other=0).to(tl.float32)
        put = write * (step * u)[None, :]
        decay, x = tl.associative_scan((tl.exp(a[:, None] * step[None, :]), put), 1, joined)
        x += decay * tl.load(BEGIN + where, mask=s < n, other=0)[:, None]
        kept = g * (x - put)
        ds = tl.sum(kept * a[:, None], 0) + tl.sum(g * write, 0) * u
        du = tl.sum(g * write, 0) * step
        tl.atomic_add(dA + c * n + s, tl.sum(kept * step[None, :], 1), mask=s < n)
        tl.atomic_add(dB + at_b, g * (step * u)[None, :], mask=ok)
        tl.atomic_add(dC + at_c, x * dy[None, :], mask=ok)
        y = tl.sum(x * read, 0)
        if D is not None:
            skip = tl.load(D + c).to(tl.float32)
            du += skip * dy
            y += skip * u
            tl.atomic_add(dD + c, tl.sum(dy * u))
        here = (b * d + c) * l + t
        if Z is not None:
            dz = above * y * half * (1 + z - z * half)
            tl.store(dZ + here, dz.to(dZ.dtype.element_ty), mask=t < l)
        ds *= slope
        if BIAS is not None:
            tl.atomic_add(dBIAS + c, tl.sum(tl.where(t < l, ds, 0.0)))
        tl.store(dU + here, du.to(dU.dtype.element_ty), mask=t < l)
        tl.store(dDELTA + here, ds.to(dDELTA.dtype.element_ty), mask=t < l)


def described(x, share=None):
    """A tensor and its strides; of B and C in four dimensions, with how many channels share a group."""
    if x is None:
        return None, 0, 0, 0
    if share is None:
        return x, *x.stride()
    if x.dim() == 2:
        return x, 0, x.stride(0), x.stride(1), 0, 1
    i, j, k, m = x.stride()
    return x, i, j, k, m, share // x.shape[1]


class Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, bias, soft):
        (b, d, l), n = u.shape, A.shape[1]
        chunks = -(-l // CHUNK)
        out = torch.empty((b, d, l), dtype=u.dtype, device=u.device)
        begin, decay = (torch.empty((b, chunks, d, n), device=u.device) for _ in range(2))
        last = torch.empty((b, d, n), device=u.device)
        shape = {"SOFTPLUS": soft, "N": triton.next_power_of_2(n), "CHUNK": CHUNK}
        same = *described(u), *described(delta), bias, *described(A), *described(B, d)
        if b:
            ends[(b * d, chunks)](*same, begin, decay, d, l, n, **shape)
            nothing = torch.zeros_like(last)
            join[(b, triton.cdiv(d * n, 128))](nothing, decay, begin, last, chunks, d * n, BACK=False, BLOCK=128)
            outputs[(b * d, chunks)](*same, *described(C, d), D, *described(z), begin, out, d, l, n, **shape)
        ctx.save_for_backward(u, delta, A, B, C, D, z, bias, begin)
        ctx.shape = shape
        return out, last

    @staticmethod
    def backward(ctx, above, above_last):
        u, delta, A, B, C, D, z, bias, begin = ctx.saved_tensors
        (b, chunks, d, n), l = begin.shape, u.shape[2]
        du, ddelta = (torch.empty(u.shape, dtype=x.dtype, device=u.device) for x in (u, delta))
        dz = None if z is None else torch.empty(u.shape, dtype=z.dtype, device=u.device)
        totals = [
            None if x is None else torch.empty_strided(x.shape, x.stride(), device=u.device).zero_()
            for x in (A, B, C, D, bias)
        ]
        dA, dB, dC, dD, dbias = totals
        later, faded = torch.empty_like(begin), torch.empty_like(begin)
        if b:
            arguments = (
                *described(u), *described(delta), bias, *described(A), *described(B, d), *described(C, d),
                D, *described(z), *described(above), begin, later, faded,
                du, ddelta, dA, dB, dC, dD, dz, dbias, d, l, n,
            )  # fmt: skip
            gradients[(b * d, chunks)](*arguments, **ctx.shape, FIRST_PASS=True)
            unused = torch.empty_like(above_last, memory_format=torch.contiguous_format)
            join[(b, triton.cdiv(d * n, 128))](
                above_last.contiguous(), faded, later, unused, chunks, d * n, BACK=True, BLOCK=128
            )
            gradients[(b * d, chunks)](*arguments, **ctx.shape, FIRST_PASS=False)
        dA, dB, dC, dD, dbias = (
            None if x is None else dx.to(x.dtype) for x, dx in zip((A, B, C, D, bias), totals, strict=True)
        )
        return du, ddelta, dA, dB, dC, dD, dz, dbias, None


def selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # fmt: skip
    for name, x in zip("BC", (B, C), strict=True):
        kind = x.dim()
        good = kind in (2, 3, 4) and (
            x.shape == A.shape if kind == 2 else (x.shape[0], *x.shape[-2:]) == (u.shape[0], A.shape[1], u.shape[2])
        )
        if not good or (kind == 4 and u.shape[1] % x.shape[1]):
            raise ValueError(f"{name} of shape {list(x.shape)} where there are d = {u.shape[1]} channels")
    A, B, C = A.contiguous(), B if B.dim() != 3 else B.unsqueeze(1), C if C.dim() != 3 else C.unsqueeze(1)
    D, delta_bias = (None if x is None else x.contiguous() for x in (D, delta_bias))
    # A gradient is added up in the place of the matrix's own numbers: none may lie on another.
    B, C = (x.contiguous() if 0 in x.stride() else x for x in (B, C))
    out, last = Scan.apply(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return (out, last) if return_last_state else out

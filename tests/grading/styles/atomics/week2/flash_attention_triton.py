"""Heads first and padded; one backward kernel accumulates dQ atomically; query heads of a key head go together."""

import torch
import triton
import triton.language as tl
from torch import autograd
from torch.nn.functional import pad

ROWS = 32


@triton.jit
def attend(
    Q, K, V, OUT, NORM, scale, queries, keys, heads, group, CAUSAL: tl.constexpr, N: tl.constexpr, D: tl.constexpr
):
    pair, tile = tl.program_id(1), tl.program_id(0)
    row = tile * N + tl.arange(0, N)
    channel = tl.arange(0, D)
    here = (pair * queries + row)[:, None] * D + channel[None, :]
    there = pair // heads * (heads // group) + pair % heads // group  # the key head, counted through the batch
    q = tl.load(Q + here, mask=row[:, None] < queries, other=0)
    peak = tl.full([N], -1.0e30, tl.float32)
    norm = tl.full([N], 0.0, tl.float32)
    out = tl.full([N, D], 0.0, tl.float32)
    stop = keys
    if CAUSAL:
        stop = tl.minimum(keys, tile * N + N + keys - queries)
    for start in tl.range(0, stop, N):
        column = start + tl.arange(0, N)
        near = (there * keys + column)[:, None] * D + channel[None, :]
        k = tl.load(K + near, mask=column[:, None] < keys, other=0)
        v = tl.load(V + near, mask=column[:, None] < keys, other=0)
        seen = (column[None, :] < keys) & (row[:, None] < queries)
        if CAUSAL:
            seen &= column[None, :] - row[:, None] <= keys - queries
        score = tl.dot(q, k.T, input_precision="tf32x3") * (scale * 1.4426950408889634)
        higher = tl.maximum(peak, tl.max(tl.where(seen, score, -1.0e30), 1))
        weight = tl.where(seen, tl.exp2(score - higher[:, None]), 0.0)
        out *= tl.exp2(peak - higher)[:, None]
        norm = norm * tl.exp2(peak - higher) + tl.sum(weight, 1)
        out += tl.dot(weight.to(v.dtype), v, input_precision="tf32x3")
        peak = higher
    out = tl.where(norm[:, None] > 0, out / tl.maximum(norm, 1e-37)[:, None], 0.0)
    tl.store(OUT + here, out.to(OUT.dtype.element_ty), mask=row[:, None] < queries)
    tl.store(NORM + pair * queries + row, peak + tl.log2(tl.maximum(norm, 1e-37)), mask=row < queries)


@triton.jit
def give_back(
    Q, K, V, OUT, ABOVE, NORM, DQ, DK, DV, scale, queries, keys, heads, group,
    CAUSAL: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One tile of keys of one key head: its own gradients, and its share of the queries'."""
    there, tile = tl.program_id(1), tl.program_id(0)
    column = tile * N + tl.arange(0, N)
    channel = tl.arange(0, D)
    near = (there * keys + column)[:, None] * D + channel[None, :]
    k = tl.load(K + near, mask=column[:, None] < keys, other=0)
    v = tl.load(V + near, mask=column[:, None] < keys, other=0)
    dk = tl.full([N, D], 0.0, tl.float32)
    dv = tl.full([N, D], 0.0, tl.float32)
    begin = 0
    if CAUSAL:
        begin = tl.maximum(0, tile * N - keys + queries) // N * N
    for member in tl.range(0, group):
        pair = there // (heads // group) * heads + there % (heads // group) * group + member
        for start in tl.range(begin, queries, N):
            row = start + tl.arange(0, N)
            here = (pair * queries + row)[:, None] * D + channel[None, :]
            inside = row[:, None] < queries
            q = tl.load(Q + here, mask=inside, other=0)
            above = tl.load(ABOVE + here, mask=inside, other=0)
            out = tl.load(OUT + here, mask=inside, other=0)
            norm = tl.load(NORM + pair * queries + row, mask=row < queries, other=0)
            seen = (column[None, :] < keys) & inside
            if CAUSAL:
                seen &= column[None, :] - row[:, None] <= keys - queries
            score = tl.dot(q, k.T, input_precision="tf32x3") * (scale * 1.4426950408889634)
            weight = tl.where(seen, tl.exp2(tl.where(seen, score, 0.0) - norm[:, None]), 0.0)
            inner = tl.sum(above.to(tl.float32) * out.to(tl.float32), 1)
            change = weight * (tl.dot(above, v.T, input_precision="tf32x3") - inner[:, None])
            dv += tl.dot(weight.T.to(v.dtype), above, input_precision="tf32x3")
            dk += tl.dot(change.T.to(q.dtype), q, input_precision="tf32x3")
            dq = tl.dot(change.to(k.dtype), k, input_precision="tf32x3") * scale
            tl.atomic_add(DQ + here, dq, mask=inside)
    tl.store(DK + near, (dk * scale).to(DK.dtype.element_ty), mask=column[:, None] < keys)
    tl.store(DV + near, dv.to(DV.dtype.element_ty), mask=column[:, None] < keys)


def packed(x):
    """(B · H, S, D'), contiguous, D' a power of two."""
    width = x.size(3)
    return pad(x.transpose(1, 2).flatten(0, 1), (0, max(16, triton.next_power_of_2(width)) - width)).contiguous()


def unpacked(x, like):
    return x[..., : like.size(3)].unflatten(0, (like.size(0), like.size(2))).transpose(1, 2).to(like.dtype).contiguous()


class Kernels(autograd.Function):
    @staticmethod
    def forward(q, k, v, causal, scale):
        Q, K, V = packed(q), packed(k), packed(v)
        out, norm = Q.new_zeros(Q.shape), q.new_zeros(Q.shape[:2], dtype=torch.float32)
        numbers = scale, q.size(1), k.size(1), q.size(2), q.size(2) // k.size(2), causal, ROWS, Q.size(2)
        if out.numel() and K.numel():
            attend[(triton.cdiv(q.size(1), ROWS), Q.size(0))](Q, K, V, out, norm, *numbers)
        return unpacked(out, q), out, norm

    @staticmethod
    def setup_context(ctx, inputs, output):
        q, k, v, ctx.causal, ctx.scale = inputs
        ctx.save_for_backward(q, k, v, output[1], output[2])
        ctx.mark_non_differentiable(output[1], output[2])

    @staticmethod
    def backward(ctx, above, *_):
        q, k, v, out, norm = ctx.saved_tensors
        Q, K, V, above = packed(q), packed(k), packed(v), packed(above)
        dq, dk, dv = Q.new_zeros(Q.shape, dtype=norm.dtype), K.new_zeros(K.shape), V.new_zeros(V.shape)
        numbers = ctx.scale, q.size(1), k.size(1), q.size(2), q.size(2) // k.size(2), ctx.causal, ROWS, Q.size(2)
        if Q.numel() and K.numel():
            grid = triton.cdiv(k.size(1), ROWS), K.size(0)
            give_back[grid](Q, K, V, out, above, norm, dq, dk, dv, *numbers)
        return unpacked(dq, q), unpacked(dk, k), unpacked(dv, v), None, None


def flash_attention(q, k, v, causal=False, softmax_scale=None):
    heads, shared, width = q.size(2), k.size(2), q.size(3)
    if heads % shared:
        raise ValueError(f"{heads} heads cannot share {shared}")
    if width not in range(8, 129, 8):
        raise ValueError(f"{width} is no width of a head here")
    return Kernels.apply(q, k, v, causal, softmax_scale if softmax_scale is not None else width**-0.5)[0]

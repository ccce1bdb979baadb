"""Pointers and masks, no descriptors; base e, every tile masked; dK and dV per query head, then summed."""

import torch
import triton
import triton.language as tl


@triton.jit
def tile(X, s_b, s_s, s_h, s_d, b, h, first, length, D, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = first + tl.arange(0, ROWS)
    cols = tl.arange(0, COLS)
    where = b.to(tl.int64) * s_b + h.to(tl.int64) * s_h + rows[:, None].to(tl.int64) * s_s + cols[None, :] * s_d
    return X + where, (rows[:, None] < length) & (cols[None, :] < D)


@triton.jit
def hide(scores, first_row, first_col, n_q, n_k, CAUSAL: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr):
    i = first_row + tl.arange(0, BQ)[:, None]
    j = first_col + tl.arange(0, BK)[None, :]
    ok = (i < n_q) & (j < n_k)
    if CAUSAL:
        ok = ok & (i + (n_k - n_q) >= j)
    return tl.where(ok, scores, float("-inf"))


@triton.jit
def forward_kernel(
    Q, qb, qs, qh, qd, K, kb, ks, kh, kd, V, vb, vs, vh, vd, O, ob, os, oh, od, LSE,
    scale, n_q, n_k, n_h, group, D,
    CAUSAL: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    h, b, first = tl.program_id(0) % n_h, tl.program_id(0) // n_h, tl.program_id(1) * BQ
    at, ok = tile(Q, qb, qs, qh, qd, b, h, first, n_q, D, BQ, BD)
    q = tl.load(at, mask=ok, other=0.0)
    top = tl.full((BQ,), float("-inf"), tl.float32)
    total = tl.zeros((BQ,), tl.float32)
    acc = tl.zeros((BQ, BD), tl.float32)
    last = n_k
    if CAUSAL:
        last = tl.minimum(n_k, first + BQ + n_k - n_q)
    for j in range(0, last, BK):
        there, inside = tile(K, kb, ks, kh, kd, b, h // group, j, n_k, D, BK, BD)
        k = tl.load(there, mask=inside, other=0.0)
        scores = hide(tl.dot(q, tl.trans(k), input_precision="ieee") * scale, first, j, n_q, n_k, CAUSAL, BQ, BK)
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        safe = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp(scores - safe[:, None])
        shrink = tl.exp(top - safe)
        total = total * shrink + tl.sum(weights, axis=1)
        there, inside = tile(V, vb, vs, vh, vd, b, h // group, j, n_k, D, BK, BD)
        v = tl.load(there, mask=inside, other=0.0)
        acc = acc * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = new_top
    total = tl.where(total == 0, 1.0, total)
    at, ok = tile(O, ob, os, oh, od, b, h, first, n_q, D, BQ, BD)
    tl.store(at, (acc / total[:, None]).to(O.dtype.element_ty), mask=ok)
    rows = first + tl.arange(0, BQ)
    lse = tl.where(top == float("-inf"), 0.0, top) + tl.log(total)
    tl.store(LSE + (b * n_h + h) * n_q + rows, lse, mask=rows < n_q)


@triton.jit
def dq_kernel(
    Q, qb, qs, qh, qd, K, kb, ks, kh, kd, V, vb, vs, vh, vd, dO, ob, os, oh, od, dQ, gb, gs, gh, gd, LSE, DELTA,
    scale, n_q, n_k, n_h, group, D,
    CAUSAL: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    h, b, first = tl.program_id(0) % n_h, tl.program_id(0) // n_h, tl.program_id(1) * BQ
    rows = first + tl.arange(0, BQ)
    lse = tl.load(LSE + (b * n_h + h) * n_q + rows, mask=rows < n_q, other=0.0)
    delta = tl.load(DELTA + (b * n_h + h) * n_q + rows, mask=rows < n_q, other=0.0)
    at, ok = tile(Q, qb, qs, qh, qd, b, h, first, n_q, D, BQ, BD)
    q = tl.load(at, mask=ok, other=0.0)
    at, ok = tile(dO, ob, os, oh, od, b, h, first, n_q, D, BQ, BD)
    do = tl.load(at, mask=ok, other=0.0)
    dq = tl.zeros((BQ, BD), tl.float32)
    last = n_k
    if CAUSAL:
        last = tl.minimum(n_k, first + BQ + n_k - n_q)
    for j in range(0, last, BK):
        there, inside = tile(K, kb, ks, kh, kd, b, h // group, j, n_k, D, BK, BD)
        k = tl.load(there, mask=inside, other=0.0)
        there, inside = tile(V, vb, vs, vh, vd, b, h // group, j, n_k, D, BK, BD)
        v = tl.load(there, mask=inside, other=0.0)
        scores = hide(tl.dot(q, tl.trans(k), input_precision="ieee") * scale, first, j, n_q, n_k, CAUSAL, BQ, BK)
        ds = tl.exp(scores - lse[:, None]) * (tl.dot(do, tl.trans(v), input_precision="ieee") - delta[:, None]) * scale
        dq += tl.dot(ds.to(k.dtype), k, input_precision="ieee")
    at, ok = tile(dQ, gb, gs, gh, gd, b, h, first, n_q, D, BQ, BD)
    tl.store(at, dq.to(dQ.dtype.element_ty), mask=ok)


@triton.jit
def dkv_kernel(
    Q, qb, qs, qh, qd, K, kb, ks, kh, kd, V, vb, vs, vh, vd, dO, ob, os, oh, od,
    dK, cb, cs, ch, cd, dV, eb, es, eh, ed, LSE, DELTA,
    scale, n_q, n_k, n_h, group, D,
    CAUSAL: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    h, b, first = tl.program_id(0) % n_h, tl.program_id(0) // n_h, tl.program_id(1) * BK
    at, ok = tile(K, kb, ks, kh, kd, b, h // group, first, n_k, D, BK, BD)
    k = tl.load(at, mask=ok, other=0.0)
    at, ok = tile(V, vb, vs, vh, vd, b, h // group, first, n_k, D, BK, BD)
    v = tl.load(at, mask=ok, other=0.0)
    dk = tl.zeros((BK, BD), tl.float32)
    dv = tl.zeros((BK, BD), tl.float32)
    begin = 0
    if CAUSAL:
        begin = tl.maximum(0, first - n_k + n_q) // BQ * BQ
    for i in range(begin, n_q, BQ):
        rows = i + tl.arange(0, BQ)
        lse = tl.load(LSE + (b * n_h + h) * n_q + rows, mask=rows < n_q, other=0.0)
        delta = tl.load(DELTA + (b * n_h + h) * n_q + rows, mask=rows < n_q, other=0.0)
        there, inside = tile(Q, qb, qs, qh, qd, b, h, i, n_q, D, BQ, BD)
        q = tl.load(there, mask=inside, other=0.0)
        there, inside = tile(dO, ob, os, oh, od, b, h, i, n_q, D, BQ, BD)
        do = tl.load(there, mask=inside, other=0.0)
        scores = hide(tl.dot(q, tl.trans(k), input_precision="ieee") * scale, i, first, n_q, n_k, CAUSAL, BQ, BK)
        weights = tl.exp(scores - lse[:, None])
        dv += tl.dot(tl.trans(weights).to(do.dtype), do, input_precision="ieee")
        ds = weights * (tl.dot(do, tl.trans(v), input_precision="ieee") - delta[:, None]) * scale
        dk += tl.dot(tl.trans(ds).to(q.dtype), q, input_precision="ieee")
    at, ok = tile(dK, cb, cs, ch, cd, b, h, first, n_k, D, BK, BD)
    tl.store(at, dk, mask=ok)
    at, ok = tile(dV, eb, es, eh, ed, b, h, first, n_k, D, BK, BD)
    tl.store(at, dv, mask=ok)


def described(*tensors):
    return [item for x in tensors for item in (x, *x.stride())]


class Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, causal, scale):
        batch, n_q, n_h, width = q.shape
        n_k, group = k.shape[1], n_h // k.shape[2]
        out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
        lse = torch.zeros(batch, n_h, n_q, device=q.device)
        sizes = (scale, n_q, n_k, n_h, group, width)
        blocks = {"BQ": 64, "BK": 32, "BD": max(16, triton.next_power_of_2(width))}
        if out.numel() and n_k:
            grid = (batch * n_h, triton.cdiv(n_q, 64))
            forward_kernel[grid](*described(q, k, v, out), lse, *sizes, CAUSAL=causal, **blocks)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.rest = causal, sizes, blocks
        return out

    @staticmethod
    def backward(ctx, above):
        q, k, v, out, lse = ctx.saved_tensors
        causal, sizes, blocks = ctx.rest
        (batch, n_q, n_h, width), n_k = q.shape, k.shape[1]
        dq = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
        dk, dv = (torch.zeros(batch, n_k, n_h, width, device=q.device) for _ in range(2))
        if q.numel() and n_k:
            delta = (above.float() * out.float()).sum(-1).transpose(1, 2).contiguous()
            dq_kernel[(batch * n_h, triton.cdiv(n_q, 64))](
                *described(q, k, v, above, dq), lse, delta, *sizes, CAUSAL=causal, **blocks
            )
            dkv_kernel[(batch * n_h, triton.cdiv(n_k, 32))](
                *described(q, k, v, above, dk, dv), lse, delta, *sizes, CAUSAL=causal, **blocks
            )
        dk, dv = (x.unflatten(2, (k.shape[2], -1)).sum(3).to(k.dtype) for x in (dk, dv))
        return dq, dk, dv, None, None


def flash_attention(q, k, v, causal=False, softmax_scale=None):
    if q.shape[2] % k.shape[2] != 0:
        raise ValueError(f"{q.shape[2]} query heads for {k.shape[2]} key heads")
    if q.shape[3] % 8 or q.shape[3] > 128:
        raise ValueError(f"head width {q.shape[3]}")
    return Attention.apply(q, k, v, causal, q.shape[3] ** -0.5 if softmax_scale is None else softmax_scale)

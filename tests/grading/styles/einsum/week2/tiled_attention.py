"""Einsums in the layout (B, S, H, D); key tiles begin at the first key that a query tile sees, and are padded."""

import math

import torch
from torch.nn import functional as F


def online_softmax(scores, block):
    if not block > 0:
        raise ValueError(f"block is {block}")
    x = scores if scores.dtype == torch.float64 else scores.float()
    if x.shape[-1] == 0:
        return torch.empty_like(scores)
    top, total = torch.full_like(x[..., :1], -3e38), torch.zeros_like(x[..., :1])
    for start in range(0, x.shape[-1], block):
        piece = x[..., start : start + block]
        new = torch.maximum(top, piece.amax(-1, keepdim=True))
        total = torch.einsum("...i,...i->...i", total, torch.exp(top - new)) + torch.exp(piece - new).sum(-1, True)
        top = new
    return (torch.exp(x - top) * torch.where(total > 0, 1 / total, 0.0)).to(scores.dtype)


def _plan(queries, keys, low, high, block_q, block_k):
    for i in range(0, queries, block_q):
        rows = range(i, min(i + block_q, queries))
        start, stop = max(0, rows[0] + low), min(keys, rows[-1] + high + 1)
        yield rows, [range(j, min(j + block_k, stop)) for j in range(start, stop, block_k)]


def _part(x, span, length):
    """The positions of `span`, zero-padded to `length`."""
    return F.pad(x[:, span.start : span.stop], (0, 0, 0, 0, 0, length - len(span)))


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, scale, cap, plan, padding):
        ctx.scale, ctx.cap, ctx.plan, ctx.padding = scale, cap, plan, padding
        number = torch.float64 if q.dtype == torch.float64 else torch.float32
        group = q.shape[2] // k.shape[2]
        out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
        lse = torch.full((q.shape[0], q.shape[2], q.shape[1]), -math.inf, dtype=number, device=q.device)
        for rows, columns in plan():
            x = q[:, rows.start : rows.stop].to(number)
            top = x.new_full((q.shape[0], q.shape[2], len(rows)), -3e38)
            mass, total = torch.zeros_like(top), x.new_zeros(q.shape[0], len(rows), q.shape[2], v.shape[3])
            for span in columns:
                y, z = (_part(t, span, padding).to(number).repeat_interleave(group, 2) for t in (k, v))
                s, _ = _capped(torch.einsum("bihd,bjhd->bhij", x, y) * scale, cap)
                s = s.masked_fill(plan.hidden(rows, span, padding), -math.inf)
                new = torch.maximum(top, s.amax(3))
                p, kept = torch.exp(s - new[..., None]), torch.exp(top - new)
                mass, top = mass * kept + p.sum(3), new
                total = total * kept.transpose(1, 2)[..., None] + torch.einsum("bhij,bjhd->bihd", p, z)
            found = mass > 0
            share = torch.where(found, 1 / torch.where(found, mass, 1.0), 0.0).transpose(1, 2)[..., None]
            out[:, rows.start : rows.stop] = (total * share).to(q.dtype)
            lse[:, :, rows.start : rows.stop] = torch.where(found, top + torch.log(mass), -math.inf)
        ctx.save_for_backward(q, k, v, out, lse)
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        q, k, v, out, lse = ctx.saved_tensors
        number, heads, group = lse.dtype, k.shape[2], q.shape[2] // k.shape[2]
        dq, dk, dv = (x.new_zeros(x.shape, dtype=number) for x in (q, k, v))
        shift = dlse - torch.einsum("bihd,bihd->bhi", dout.to(number), out.to(number))
        for rows, columns in ctx.plan():
            at = slice(rows.start, rows.stop)
            x, above, finite = q[:, at].to(number), dout[:, at].to(number), lse[:, :, at].clamp(min=-3e38)
            for span in columns:
                y, z = (_part(t, span, ctx.padding).to(number).repeat_interleave(group, 2) for t in (k, v))
                s, slope = _capped(torch.einsum("bihd,bjhd->bhij", x, y) * ctx.scale, ctx.cap)
                hidden = ctx.plan.hidden(rows, span, ctx.padding)
                p = torch.exp(s - finite[..., None]).masked_fill(hidden, 0.0)
                ds = p * (torch.einsum("bihd,bjhd->bhij", above, z) + shift[:, :, at, None]) * slope * ctx.scale
                dq[:, at] += torch.einsum("bhij,bjhd->bihd", ds, y)
                for whole, weights, other in ((dk, ds, x), (dv, p, above)):
                    part = torch.einsum("bhij,bihd->bjhd", weights, other)[:, : len(span)]
                    whole[:, span.start : span.stop] += part.unflatten(2, (heads, group)).sum(3)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None, None


def _capped(s, cap):
    if cap <= 0:
        return s, 1.0
    t = torch.tanh(s / cap)
    return cap * t, 1 - t.square()


class _Plan:
    def __init__(self, *sizes):
        self.sizes = sizes

    def __call__(self):
        return _plan(*self.sizes)

    def hidden(self, rows, span, length):
        _, _, low, high, *_ = self.sizes
        i, j = torch.tensor(list(rows)), torch.arange(span.start, span.start + length)
        d = j - i[:, None]
        return ~((d >= low) & (d <= high) & (j < span.stop))


def tiled_attention(
    q, k, v, causal=False, softmax_scale=None, window_size=(-1, -1), softcap=0.0, block_q=64, block_k=64,
    return_lse=False,
):  # fmt: skip
    if q.shape[2] // k.shape[2] * k.shape[2] != q.shape[2]:
        raise ValueError(f"number of heads: {q.shape[2]} for q, {k.shape[2]} for k")
    for name in ("block_q", "block_k"):
        if locals()[name] < 1:
            raise ValueError(f"{name} = {locals()[name]}")
    queries, keys = q.shape[1], k.shape[1]
    far = queries + keys
    left, right = (far if side < 0 else side for side in window_size)
    plan = _Plan(queries, keys, keys - queries - left, keys - queries + (0 if causal else right), block_q, block_k)
    scale = 1 / math.sqrt(q.shape[3]) if softmax_scale is None else softmax_scale
    out, lse = _Tiled.apply(q, k, v, scale, softcap, plan, min(block_k, keys))
    if return_lse:
        return out, lse
    return out


def quantize_fp8(x, block):
    if block < 1:
        raise ValueError(f"block = {block} < 1")
    which = torch.arange(x.shape[1]) // block  # the block of each position
    number = int(which[-1]) + 1 if x.shape[1] else 0
    largest = torch.zeros(x.shape[0], number, x.shape[2])
    index = which[None, :, None].expand(x.shape[0], -1, x.shape[2])
    largest.scatter_reduce_(1, index, x.float().abs().amax(3), "amax")
    scale = torch.where(largest == 0, torch.ones(()), largest / 448.0)
    return (x.float() / scale[:, which, :, None]).to(torch.float8_e4m3fn), scale


def fp8_attention(q, k, v, causal=False, softmax_scale=None, block=64):
    width = q.shape[-1]
    if width & width - 1:
        raise ValueError(f"D = {width}, not a power of two")

    def hadamard(x):
        if x.shape[-1] == 1:
            return x
        a, b = x.chunk(2, -1)
        return torch.cat([hadamard(a + b), hadamard(a - b)], -1) * 0.5**0.5

    signs = torch.tensor([(-1.0) ** (i * i * 5 // 3 + i // 7) for i in range(width)])
    restored = []
    for x in (hadamard(q.double() * signs), hadamard(k.double() * signs), v):
        x8, scale = quantize_fp8(x, block)
        restored.append(x8.float() * scale.repeat_interleave(block, 1)[:, : x.shape[1], :, None])
    return tiled_attention(*restored, causal, softmax_scale, block_q=block, block_k=block).to(q.dtype)

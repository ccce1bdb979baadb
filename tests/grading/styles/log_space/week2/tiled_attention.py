"""Partial results joined by their log-sum-exp; the gradients of a tile by autograd, one pass for q, one for k and v."""

import math

import torch
from torch import nn


def online_softmax(scores, block):
    if block < 1:
        raise ValueError(f"a block of {block} scores")
    wide = scores.double() if scores.dtype == torch.float64 else scores.float()
    lse = wide.new_full((*wide.shape[:-1], 1), -math.inf)
    for part in wide.split(block, -1) if wide.size(-1) else ():
        lse = torch.logaddexp(lse, part.logsumexp(-1, keepdim=True))
    return torch.exp(wide - lse.masked_fill(lse.isneginf(), 0.0)).to(scores.dtype)


def _score(q, k, hidden, scale, softcap):
    s = torch.einsum("bhgid,bhjd->bhgij", q, k) * scale
    if softcap > 0:
        s = torch.tanh(s / softcap) * softcap
    return s.masked_fill(hidden, -math.inf)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, how, seen, blocks):
        """q (B, H_k, G, S_q, D), k and v (B, H_k, S_k, D)."""
        ctx.how, ctx.seen, ctx.blocks = how, seen, blocks
        wide = torch.promote_types(q.dtype, torch.float32)
        outs, lses = [], []
        for i in range(0, q.size(3), blocks[0]):
            q_i = q[:, :, :, i : i + blocks[0]].to(wide)
            out = q_i.new_zeros(*q_i.shape[:4], v.size(-1))
            lse = q_i.new_full(q_i.shape[:4], -math.inf)
            for j in range(0, k.size(2), blocks[1]):
                k_j, v_j = (x[:, :, j : j + blocks[1]].to(wide) for x in (k, v))
                visible = seen(i, q_i.size(3), j, k_j.size(2), q.device)
                if visible is None:
                    continue
                s = _score(q_i, k_j, ~visible, *how)
                here = s.logsumexp(-1)
                joined = torch.logaddexp(lse, here)
                base = joined.masked_fill(joined.isneginf(), 0.0)
                part = torch.einsum("bhgij,bhje->bhgie", torch.exp(s - base[..., None]), v_j)
                out = out * torch.exp(lse - base)[..., None] + part
                lse = joined
            outs.append(out.to(q.dtype))
            lses.append(lse)
        out = torch.cat(outs, 3) if outs else q.new_zeros(*q.shape[:4], v.size(-1))
        lse = torch.cat(lses, 3) if lses else q.new_zeros(q.shape[:4], dtype=wide)
        ctx.save_for_backward(q, k, v, out, lse)
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        q, k, v, out, lse = ctx.saved_tensors
        size_q, size_k = ctx.blocks
        correction = dlse - (dout.to(lse.dtype) * out.to(lse.dtype)).sum(-1)  # what every dP gets
        base = torch.where(lse == -math.inf, 0.0, lse)

        def tile(i, j):
            q_i, do_i = (x[:, :, :, i : i + size_q].to(lse.dtype) for x in (q, dout))
            k_j, v_j = (x[:, :, j : j + size_k].to(lse.dtype) for x in (k, v))
            visible = ctx.seen(i, q_i.size(3), j, k_j.size(2), q.device)
            if visible is None:
                return None
            with torch.enable_grad():
                q_i.requires_grad_(), k_j.requires_grad_()
                s = torch.einsum("bhgid,bhjd->bhgij", q_i, k_j) * ctx.how[0]
                if ctx.how[1] > 0:
                    s = torch.tanh(s / ctx.how[1]) * ctx.how[1]
            p = torch.exp(s.detach().masked_fill(~visible, -math.inf) - base[:, :, :, i : i + size_q, None])
            dp = torch.einsum("bhgie,bhje->bhgij", do_i, v_j)
            return q_i, k_j, do_i, s, p, p * (dp + correction[:, :, :, i : i + size_q, None])

        dq, dk, dv = (torch.zeros_like(x, dtype=lse.dtype) for x in (q, k, v))
        for i in range(0, q.size(3), size_q):
            for j in range(0, k.size(2), size_k):
                if (found := tile(i, j)) is not None:
                    q_i, k_j, do_i, s, p, ds = found
                    of_q, of_k = torch.autograd.grad(s, (q_i, k_j), ds)
                    dq[:, :, :, i : i + size_q] += of_q
                    dk[:, :, j : j + size_k] += of_k
                    dv[:, :, j : j + size_k] += torch.einsum("bhgij,bhgie->bhje", p, do_i)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None


def tiled_attention(
    q, k, v, causal=False, softmax_scale=None, window_size=(-1, -1), softcap=0.0, block_q=64, block_k=64,
    return_lse=False,
):  # fmt: skip
    queries, keys, heads, kv_heads = q.size(1), k.size(1), q.size(2), k.size(2)
    if heads % kv_heads:
        raise ValueError(f"q.size(2)={heads} and k.size(2)={kv_heads}")
    if block_q < 1 or block_k < 1:
        raise ValueError(f"block_q={block_q}, block_k={block_k}: both must be positive")
    left, right = window_size
    if causal:
        right = 0

    def seen(i, rows, j, columns, device):
        """What is visible in a tile; None if nothing is."""
        at = torch.arange(i, i + rows, device=device)[:, None] + keys - queries
        key = torch.arange(j, j + columns, device=device)
        visible = torch.ones(rows, columns, dtype=torch.bool, device=device)
        if left >= 0:
            visible &= at - key <= left
        if right >= 0:
            visible &= key - at <= right
        return visible if visible.any() else None

    scale = q.size(-1) ** -0.5 if softmax_scale is None else softmax_scale
    grouped = q.unflatten(2, (kv_heads, heads // kv_heads)).permute(0, 2, 3, 1, 4)
    out, lse = _Attend.apply(grouped, k.transpose(1, 2), v.transpose(1, 2), (scale, softcap), seen, (block_q, block_k))
    out = out.permute(0, 3, 1, 2, 4).flatten(2, 3)
    return (out, lse.flatten(1, 2)) if return_lse else out


def quantize_fp8(x, block):
    if block < 1:
        raise ValueError(f"block: {block}")
    parts = x.float().split(block, 1) if x.size(1) else []
    scales = [p.abs().flatten(3).amax((1, 3)) / 448 for p in parts]
    scales = [s.masked_fill(s == 0, 1.0) for s in scales]
    x8 = [(p / s[:, None, :, None]).to(torch.float8_e4m3fn) for p, s in zip(parts, scales, strict=True)]
    if not parts:
        return x.to(torch.float8_e4m3fn), x.new_zeros(x.size(0), 0, x.size(2), dtype=torch.float32)
    return torch.cat(x8, 1), torch.stack(scales, 1)


def fp8_attention(q, k, v, causal=False, softmax_scale=None, block=64):
    width = q.size(-1)
    if math.log2(width) % 1:
        raise ValueError(f"no Hadamard matrix for a width of {width}")
    matrix = torch.ones(1, 1)
    for _ in range(int(math.log2(width))):
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    signs = 1 - 2 * torch.bernoulli(torch.full((width,), 0.5), generator=torch.Generator().manual_seed(11))
    matrix = nn.functional.normalize(signs[:, None] * matrix, dim=0)
    restored = []
    for x in (q.float() @ matrix, k.float() @ matrix, v.float()):
        x8, scale = quantize_fp8(x, block)
        positions = torch.arange(x.size(1)) // block
        restored.append(x8.float() * scale[:, positions, :, None])
    return tiled_attention(*restored, causal, softmax_scale, block_q=block, block_k=block).to(q.dtype)

"""One head at a time, in plain matrices; backward with key tiles outermost, as in the paper; FP8 tile by tile."""

import math

import torch


def online_softmax(scores, block):
    if block < 1:
        raise ValueError(f"block={block} is too small")
    compute = torch.float64 if scores.dtype == torch.float64 else torch.float32
    highest = torch.full(scores.shape[:-1], -math.inf, dtype=compute)
    total = torch.zeros_like(highest)
    for start in range(0, scores.shape[-1], block):
        part = scores[..., start : start + block].to(compute)
        new = torch.maximum(highest, part.max(-1).values)
        base = torch.where(new == -math.inf, 0.0, new)
        total = total * torch.exp(highest - base)
        for column in part.unbind(-1):
            total = total + torch.exp(column - base)
        highest = new
    base = torch.where(highest == -math.inf, 0.0, highest)
    total = torch.where(total == 0, 1.0, total)
    return (torch.exp(scores.to(compute) - base[..., None]) / total[..., None]).to(scores.dtype)


def _limits(queries, keys, causal, window):
    left, right = window
    right = 0 if causal else right
    return -(10**9) if left < 0 else keys - queries - left, 10**9 if right < 0 else keys - queries + right


def _hidden(i, j, rows, columns, limits):
    """What is hidden in a tile; None if everything is."""
    below, above = limits
    if j > i + rows - 1 + above or j + columns - 1 < i + below:
        return None
    distance = torch.arange(j, j + columns) - torch.arange(i, i + rows).view(-1, 1)
    return torch.logical_or(distance < below, distance > above)


class Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, limits, scale, cap, size_q, size_k):
        batch, queries, heads, _ = q.shape
        group = heads // k.shape[2]
        compute = torch.float64 if q.dtype == torch.float64 else torch.float32
        out = torch.zeros(batch, queries, heads, v.shape[-1], dtype=q.dtype)
        lse = torch.full((batch, heads, queries), -math.inf, dtype=compute)
        for b in range(batch):
            for h in range(heads):
                for i in range(0, queries, size_q):
                    qi = q[b, i : i + size_q, h].to(compute)
                    m = torch.full((len(qi), 1), -math.inf, dtype=compute)
                    l, acc = torch.zeros_like(m), torch.zeros(len(qi), v.shape[-1], dtype=compute)
                    for j in range(0, k.shape[1], size_k):
                        kj, vj = (x[b, j : j + size_k, h // group].to(compute) for x in (k, v))
                        if (hidden := _hidden(i, j, len(qi), len(kj), limits)) is None:
                            continue
                        s = qi.mm(kj.t()) * scale
                        if cap > 0:
                            s = torch.tanh(s / cap) * cap
                        s = torch.where(hidden, -math.inf, s)
                        new = torch.maximum(m, s.max(1, keepdim=True).values)
                        base = torch.where(new == -math.inf, 0.0, new)
                        p, shrink = torch.exp(s - base), torch.exp(m - base)
                        l, acc, m = l * shrink + p.sum(1, keepdim=True), acc * shrink + p.mm(vj), new
                    out[b, i : i + size_q, h] = (acc / torch.where(l > 0, l, 1.0)).to(q.dtype)
                    lse[b, h, i : i + size_q] = (m + torch.log(l))[:, 0]
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.rest = limits, scale, cap, size_q, size_k
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        q, k, v, out, lse = ctx.saved_tensors
        limits, scale, cap, size_q, size_k = ctx.rest
        dq, dk, dv = (torch.zeros(x.shape, dtype=lse.dtype) for x in (q, k, v))
        for b in range(q.shape[0]):
            for h in range(q.shape[2]):
                shared = h // (q.shape[2] // k.shape[2])
                for j in range(0, k.shape[1], size_k):
                    kj, vj = (x[b, j : j + size_k, shared].to(lse.dtype) for x in (k, v))
                    for i in range(0, q.shape[1], size_q):
                        qi, oi, doi = (x[b, i : i + size_q, h].to(lse.dtype) for x in (q, out, dout))
                        if (hidden := _hidden(i, j, len(qi), len(kj), limits)) is None:
                            continue
                        s, slope = qi.mm(kj.t()) * scale, scale
                        if cap > 0:
                            t = torch.tanh(s / cap)
                            s, slope = t * cap, scale * (1 - t * t)
                        li = lse[b, h, i : i + size_q, None]
                        p = torch.exp(s - torch.where(li.isinf(), 0.0, li)).masked_fill(hidden, 0.0)
                        dv[b, j : j + size_k, shared] += p.t().mm(doi)
                        inner = doi.mm(vj.t()) - (doi * oi).sum(1, keepdim=True) + dlse[b, h, i : i + size_q, None]
                        ds = p * inner * slope
                        dq[b, i : i + size_q, h] += ds.mm(kj)
                        dk[b, j : j + size_k, shared] += ds.t().mm(qi)
        return (*(d.to(x.dtype) for d, x in ((dq, q), (dk, k), (dv, v))), None, None, None, None, None)


def tiled_attention(
    q, k, v, causal=False, softmax_scale=None, window_size=(-1, -1), softcap=0.0, block_q=64, block_k=64,
    return_lse=False,
):  # fmt: skip
    if q.shape[2] % k.shape[2] != 0:
        raise ValueError(f"{q.shape[2]} heads cannot share {k.shape[2]}")
    for what, value in {"block_q": block_q, "block_k": block_k}.items():
        if value <= 0:
            raise ValueError(f"{what}={value}")
    limits = _limits(q.shape[1], k.shape[1], causal, window_size)
    scale = q.shape[3] ** -0.5 if softmax_scale is None else softmax_scale
    both = Attention.apply(q, k, v, limits, scale, softcap, block_q, block_k)
    return both if return_lse else both[0]


def quantize_fp8(x, block):
    if block < 1:
        raise ValueError(f"block must be positive: {block}")
    batch, length, heads, _ = x.shape
    numbers = torch.zeros(x.shape, dtype=torch.float8_e4m3fn)
    scales = torch.ones(batch, math.ceil(length / block), heads)
    for n in range(scales.shape[1]):
        for b in range(batch):
            for h in range(heads):
                part = x[b, n * block : (n + 1) * block, h].float()
                if (largest := part.abs().max()) > 0:
                    scales[b, n, h] = largest / 448
                numbers[b, n * block : (n + 1) * block, h] = (part / scales[b, n, h]).to(torch.float8_e4m3fn)
    return numbers, scales


def _hadamard(width):
    if width.bit_count() != 1:
        raise ValueError(f"head dimension {width} is no power of two")
    i = torch.arange(width)
    ones = sum(((i[:, None] & i) >> bit) & 1 for bit in range(width.bit_length()))
    return (1 - 2 * (ones % 2)).float() / math.sqrt(width)


def fp8_attention(q, k, v, causal=False, softmax_scale=None, block=64):
    """The scales join the products of 8-bit numbers; the softmax's weights are rounded to 8 bits too."""
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"heads {q.shape[2]}, {k.shape[2]}")
    width = q.shape[3]
    rotation = _hadamard(width) * torch.where(torch.arange(width) * 37 % 11 > 5, 1.0, -1.0)[:, None]
    (q8, q_scale), (k8, k_scale), (v8, v_scale) = (
        quantize_fp8(x, block) for x in (q.float() @ rotation, k.float() @ rotation, v)
    )
    scale = width**-0.5 if softmax_scale is None else softmax_scale
    limits, group = _limits(q.shape[1], k.shape[1], causal, (-1, -1)), q.shape[2] // k.shape[2]
    out = torch.zeros(*q.shape[:3], v.shape[3])
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            for x, i in enumerate(range(0, q.shape[1], block)):
                qi = q8[b, i : i + block, h].float()
                m, l, acc = torch.full((len(qi), 1), -1e38), torch.zeros(len(qi), 1), torch.zeros(len(qi), v.shape[3])
                for y, j in enumerate(range(0, k.shape[1], block)):
                    kj, vj = (each[b, j : j + block, h // group].float() for each in (k8, v8))
                    if (hidden := _hidden(i, j, len(qi), len(kj), limits)) is None:
                        continue
                    s = qi @ kj.t() * (q_scale[b, x, h] * k_scale[b, y, h // group] * scale)
                    s = s.masked_fill(hidden, -math.inf)
                    new = torch.maximum(m, s.amax(1, keepdim=True))
                    p, shrink = torch.exp(s - new), torch.exp(m - new)
                    rounded = (p * 256).to(torch.float8_e4m3fn).float() / 256
                    l = l * shrink + p.sum(1, keepdim=True)
                    acc, m = acc * shrink + rounded @ vj * v_scale[b, y, h // group], new
                out[b, i : i + block, h] = acc / l.clamp_min(1e-30)
    return out.to(q.dtype)

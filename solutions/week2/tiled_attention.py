"""Attention in tiles: FlashAttention-2 (Dao 2023, arXiv:2307.08691), and FlashAttention-3's FP8 (arXiv:2407.08608).

Sizes in the shapes below: B batch, S_q queries, S_k keys, D the width of a head, D_v of its values, H query heads, H_k
key/value heads, G = H / H_k query heads to each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def online_softmax(scores: Tensor, block: int) -> Tensor:
    """softmax(scores) over the last dimension, with its statistics from one pass over blocks.

    Algorithm 3 of Milakov and Gimelshein 2018, "Online normalizer calculation for softmax" (arXiv:1805.02867), with
    blocks of numbers instead of single ones. Each block in turn updates every row's running maximum and running sum, so
    that no row is ever processed as a whole before both are known. The last block may be shorter.

    Args:
        scores: (..., N), any floating-point dtype and memory layout, finite or -inf. N may be 0.
        block: how many numbers of a row are processed together.

    Returns:
        (..., N), of scores' dtype, computed in float32 (float64 for float64). A row of only -inf becomes zeros.

    Raises:
        ValueError: block is less than 1; the message says "block" and the number.
    """
    _check_at_least_one(block=block)
    wide = torch.promote_types(scores.dtype, torch.float32)
    m = scores.new_full((*scores.shape[:-1], 1), torch.finfo(wide).min, dtype=wide)  # running maximum
    d = torch.zeros_like(m)  # running sum of exp(score - m)
    for columns in _blocks(0, scores.size(-1), block):
        x = scores[..., columns].to(wide)  # (..., block)
        m_new = torch.maximum(m, x.amax(dim=-1, keepdim=True))
        d = d * torch.exp(m - m_new) + torch.exp(x - m_new).sum(dim=-1, keepdim=True)
        m = m_new
    return (torch.exp(scores - m) / d.where(d > 0, 1.0)).to(scores.dtype)


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = False,
    softmax_scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    block_q: int = 64,
    block_k: int = 64,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(Q Kᵀ · softmax_scale) V without the matrix of scores: Algorithms 1 and 2 of FlashAttention-2.

    Arguments and layout are those of `flash_attn.flash_attn_func`. Query i sees key j when

        i + S_k - S_q - left <= j <= i + S_k - S_q + right        (left, right) = window_size

    so the last query is aligned with the last key (bottom-right). B, S_q and S_k may be 0.

    Cost, forward and backward:
        A tile is block_q queries by block_k keys, for any number of heads and sequences at once. No intermediate tensor
        has more numbers than one tile for all B·H, or than the largest argument or result.
        A tile in which no query sees a key is not computed: not even NaN in it shows. The products within a tile are
        PyTorch's matrix products (matmul, einsum, …); nothing is compiled and no fused attention is called.
        Only a few tensors of the size of the arguments and results are kept for backward: the tiles are recomputed.

    Args:
        q: (B, S_q, H, D), float16, bfloat16, float32 or float64. No argument need be contiguous.
        k: (B, S_k, H_k, D), of q's dtype. H is a multiple of H_k, and head h reads key/value head h // (H / H_k).
        v: (B, S_k, H_k, D_v), of q's dtype. D_v may differ from D.
        causal: no query sees a key after its own position: right is 0, whatever window_size says.
        softmax_scale: the factor of the scores; None means 1 / √D.
        window_size: (left, right), how many keys a query sees before and after its own position; -1 = no bound.
        softcap: if greater than 0, the scaled scores s become softcap · tanh(s / softcap), before masking.
        block_q: queries in a tile. The last tile may have fewer.
        block_k: keys in a tile. The last tile may have fewer.
        return_lse: return lse too.

    Returns:
        out (B, S_q, H, D_v), of q's dtype; or (out, lse) with lse (B, H, S_q), float32 (float64 for float64): the
        natural logarithm of the sum of exp(score) over the keys seen, with scaled and capped scores.
        Products and sums are accumulated in lse's dtype. A query that sees no key gets out 0 and lse -inf, and no
        gradient flows through it. Both results are differentiable in q, k and v, once. The arguments are not modified.

    Raises:
        ValueError: H is not a multiple of H_k (the message names both numbers); block_q or block_k is less than 1 (the
            message names which, and the number).
    """
    _check_at_least_one(block_q=block_q, block_k=block_k)
    heads, kv_heads = q.size(2), k.size(2)
    if heads % kv_heads:
        raise ValueError(f"q has {heads} heads, which is not a multiple of the {kv_heads} of k and v")
    if softmax_scale is None:
        softmax_scale = 1 / math.sqrt(q.size(-1))
    band = _Band.of(q.size(1), k.size(1), causal, window_size)
    out, lse = _TiledAttention.apply(q, k, v, _Scores(softmax_scale, softcap), band, block_q, block_k)
    return (out, lse) if return_lse else out


def quantize_fp8(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """x ≈ x8 · scale, with one scale per `block` positions of one head: FlashAttention-3's block quantisation.

    The scale is the block's largest absolute value divided by 448, the largest number of float8_e4m3fn, so that the
    block fills the range; it is 1 if the whole block is 0. The last block may be shorter.

    Args:
        x: (B, S, H, D), any floating-point dtype. S may be 0.
        block: positions along S that share a scale.

    Returns:
        x8 (B, S, H, D), float8_e4m3fn: x / scale, rounded to the nearest.
        scale (B, ceil(S / block), H), float32.

    Raises:
        ValueError: block is less than 1; the message says "block" and the number.
    """
    _check_at_least_one(block=block)
    length, number = x.size(1), -(-x.size(1) // block)
    padded = F.pad(x.float(), (0, 0, 0, 0, 0, number * block - length))  # zeros change no maximum
    blocks = padded.unflatten(1, (number, block))  # (B, N, block, H, D)
    scale = blocks.abs().amax(dim=(2, 4)) / torch.finfo(torch.float8_e4m3fn).max  # (B, N, H)
    scale = scale.where(scale > 0, 1.0)
    x8 = (blocks / scale[:, :, None, :, None]).to(torch.float8_e4m3fn)
    return x8.flatten(1, 2)[:, :length], scale


@torch.no_grad()
def fp8_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = False,
    softmax_scale: float | None = None,
    block: int = 64,
) -> Tensor:
    """Attention on q, k and v in float8_e4m3fn: block scales and incoherent processing, as in FlashAttention-3.

    Incoherent processing: q and k are multiplied by the same random orthogonal matrix M, random signs followed by a
    Hadamard transform. The scores are unchanged, (q M)(k M)ᵀ = q kᵀ, but an outlier in one channel is spread over all.
    Then q, k and v are quantised by `quantize_fp8`. Products are accumulated in float32; the softmax's weights may stay
    in float32 or be quantised too. The tiles are those of `tiled_attention`, block queries by block keys. Forward only.

    Args:
        q, k, v, causal, softmax_scale: as in `tiled_attention`. D must be a power of two.
        block: positions along the sequence that share a scale.

    Returns:
        (B, S_q, H, D_v), of q's dtype. Its error is that of quantisation: nothing is computed from numbers that
        have not gone through float8_e4m3fn.

    Raises:
        ValueError: D is not a power of two; the message names D's value. As in `tiled_attention`, for heads and block.
    """
    dtype = q.dtype
    q, k = _rotate(q.float()), _rotate(k.float())
    q, k, v = (_dequantize(*quantize_fp8(x, block), block) for x in (q, k, v))
    out = tiled_attention(q, k, v, causal, softmax_scale, block_q=block, block_k=block)
    assert isinstance(out, Tensor)
    return out.to(dtype)


# --- which tiles to compute -----------------------------------------------------------------------------------------


def _blocks(start: int, stop: int, block: int) -> Iterator[slice]:
    return (slice(at, min(at + block, stop)) for at in range(start, stop, block))


@dataclass(frozen=True)
class _Band:
    """Query i sees key j when i + low <= j <= i + high: a band along the diagonal of the scores."""

    queries: int
    keys: int
    low: int
    high: int

    @staticmethod
    def of(queries: int, keys: int, causal: bool, window_size: tuple[int, int]) -> _Band:
        left, right = window_size
        if causal:
            right = 0
        shift = keys - queries  # the last query is aligned with the last key
        return _Band(queries, keys, shift - left if left >= 0 else -queries, shift + right if right >= 0 else keys)

    def tiles(self, block_q: int, block_k: int) -> Iterator[tuple[slice, list[slice]]]:
        """Each tile of queries, with the tiles of keys in which it sees anything."""
        for rows in _blocks(0, self.queries, block_q):
            first = max(rows.start + self.low, 0)  # the first query sees furthest back,
            last = min(rows.stop - 1 + self.high, self.keys - 1)  # the last one furthest ahead
            yield rows, list(_blocks(first // block_k * block_k, last + 1, block_k))

    def hides(self, rows: slice, columns: slice, device: torch.device) -> Tensor:
        """(rows, columns), True where the query does not see the key."""
        i = torch.arange(rows.start, rows.stop, device=device)[:, None]
        j = torch.arange(columns.start, columns.stop, device=device)
        return (j < i + self.low) | (j > i + self.high)


# --- the tiles ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scores:
    """s = cap(q kᵀ · scale), and its derivative."""

    scale: float
    softcap: float

    def __call__(self, q: Tensor, k: Tensor) -> Tensor:
        s = q @ k.mT * self.scale  # (..., block_q, block_k)
        return self.softcap * torch.tanh(s / self.softcap) if self.softcap > 0 else s

    def backward(self, s: Tensor, ds: Tensor) -> Tensor:
        """The gradient of q kᵀ from that of s."""
        if self.softcap > 0:
            ds = ds * (1 - (s / self.softcap) ** 2)  # tanh' = 1 - tanh²
        return ds * self.scale


class _TiledAttention(torch.autograd.Function):
    """Each loop body is one tile for all heads. Inside, tensors are heads first: (B, H_k, G, S, D)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, scores: _Scores, band: _Band, block_q: int, block_k: int
    ) -> tuple[Tensor, Tensor]:
        """Algorithm 1."""
        ctx.scores, ctx.band, ctx.blocks = scores, band, (block_q, block_k)
        wide = torch.promote_types(q.dtype, torch.float32)
        out = q.new_empty(*q.shape[:3], v.size(-1))  # (B, S_q, H, D_v)
        lse = q.new_empty(q.size(0), q.size(2), q.size(1), dtype=wide)  # (B, H, S_q)
        Q, K, V, O = (_heads_first(x, k.size(2)) for x in (q, k, v, out))
        L = lse.unflatten(1, Q.shape[1:3])  # (B, H_k, G, S_q)

        for rows, key_tiles in band.tiles(block_q, block_k):
            q_i = Q[..., rows, :].to(wide)  # (B, H_k, G, block_q, D)
            o = q_i.new_zeros(*q_i.shape[:-1], v.size(-1))  # (B, H_k, G, block_q, D_v), not yet divided by l
            l = q_i.new_zeros(*q_i.shape[:-1], 1)  # running sum of exp(s - m)
            m = torch.full_like(l, torch.finfo(wide).min)  # running maximum, finite: -inf - m is never NaN
            for columns in key_tiles:
                k_j, v_j = K[..., columns, :].to(wide), V[..., columns, :].to(wide)
                s = scores(q_i, k_j).masked_fill(band.hides(rows, columns, q.device), -math.inf)
                m_new = torch.maximum(m, s.amax(dim=-1, keepdim=True))
                p = torch.exp(s - m_new)  # (B, H_k, G, block_q, block_k)
                rescale = torch.exp(m - m_new)  # the sums so far are relative to the old maximum
                l = rescale * l + p.sum(dim=-1, keepdim=True)
                o = rescale * o + p @ v_j
                m = m_new
            O[..., rows, :] = o / l.where(l > 0, 1.0)  # l is 0 where no key is seen
            L[..., rows] = (m + torch.log(l)).squeeze(-1)

        ctx.save_for_backward(q, k, v, out, lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
        """Algorithm 2, with the gradient of lse added and the tiles in forward's order."""
        q, k, v, out, lse = ctx.saved_tensors
        scores, band = ctx.scores, ctx.band
        dq, dk, dv = (torch.zeros_like(x, dtype=lse.dtype) for x in (q, k, v))
        Q, K, V, O, dO, dQ, dK, dV = (_heads_first(x, k.size(2)) for x in (q, k, v, out, dout, dq, dk, dv))
        L, dL = (x.unflatten(1, Q.shape[1:3]).unsqueeze(-1) for x in (lse, dlse))  # (B, H_k, G, S_q, 1)
        L = L.masked_fill(L.isneginf(), 0.0)  # a query that sees no key: p = exp(-inf - 0) = 0, not NaN

        for rows, key_tiles in band.tiles(*ctx.blocks):
            q_i, o_i, do_i = (X[..., rows, :].to(lse.dtype) for X in (Q, O, dO))
            delta = (do_i * o_i).sum(dim=-1, keepdim=True)  # D of the paper, (B, H_k, G, block_q, 1)
            for columns in key_tiles:
                k_j, v_j = K[..., columns, :].to(lse.dtype), V[..., columns, :].to(lse.dtype)
                s = scores(q_i, k_j)
                hidden = band.hides(rows, columns, q.device)
                p = torch.exp(s.masked_fill(hidden, -math.inf) - L[..., rows, :])  # the softmax, no sum needed
                dp = do_i @ v_j.mT
                ds = scores.backward(s, p * (dp - delta + dL[..., rows, :]))
                dQ[..., rows, :] += ds @ k_j
                dK[..., columns, :] += (ds.mT @ q_i).sum(dim=2, keepdim=True)  # over the G heads that read it
                dV[..., columns, :] += (p.mT @ do_i).sum(dim=2, keepdim=True)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None, None


def _heads_first(x: Tensor, kv_heads: int) -> Tensor:
    """(B, S, H, D) -> (B, H_k, G, S, D), a view. For k and v G is 1, which broadcasts."""
    return x.unflatten(2, (kv_heads, x.size(2) // kv_heads)).permute(0, 2, 3, 1, 4)


# --- FP8 ------------------------------------------------------------------------------------------------------------


def _dequantize(x8: Tensor, scale: Tensor, block: int) -> Tensor:
    """(B, S, H, D) in float32, equivalent to a kernel that multiplies x8 and then applies each tile's scales."""
    return x8.float() * scale.repeat_interleave(block, dim=1)[:, : x8.size(1), :, None]


def _rotate(x: Tensor) -> Tensor:
    """x · diag(signs) · Hadamard / √D, which is orthogonal, in D log D steps. The signs are the same in every call."""
    width = x.size(-1)
    if width & (width - 1):
        raise ValueError(f"a Hadamard transform needs a head width that is a power of two, not {width}")
    signs = torch.randint(0, 2, (width,), generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = x * signs.to(x) / math.sqrt(width)
    half = 1
    while half < width:
        a, b = x.unflatten(-1, (-1, 2, half)).unbind(-2)  # (..., D / 2 half, half) each
        x = torch.stack([a + b, a - b], dim=-2).flatten(-3)
        half *= 2
    return x


def _check_at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")

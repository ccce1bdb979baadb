"""FlashAttention-2 (Dao 2023, arXiv:2307.08691) as Triton kernels, forward and backward, for Hopper.

Sizes in the shapes below: B batch, S_q queries, S_k keys, D the width of a head, H query heads, H_k key/value heads,
G = H / H_k query heads per key/value head. A tile is BLOCK_Q queries or BLOCK_K keys of one head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.tools.tensor_descriptor import TensorDescriptor


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, softmax_scale: float | None = None
) -> Tensor:
    """softmax(Q Kᵀ · softmax_scale) V by Triton kernels: Algorithms 1 and 2 of FlashAttention-2.

    Arguments and layout are those of `flash_attn.flash_attn_func`. With causal, query i sees key j when
    j <= i + S_k - S_q, so that the last query is aligned with the last key (bottom-right). B, S_q and S_k may be 0.

    `@triton.jit` kernels do the arithmetic, forward and backward; PyTorch may do rowsum(dO ∘ O) and the sum over heads
    that share a key head. The kernels run on a GPU, and on a CPU in Triton's interpreter (TRITON_INTERPRET=1), where
    the tests check that:
        Products are computed by `tl.dot`, with no dimension below 16. float32 is multiplied in float32
        (`input_precision` "ieee" or "tf32x3").
        A tile is at most 128 queries by 128 keys. With causal, a tile in which no query sees a key is not computed: not
        even NaN in it shows.
        No tensor has more numbers than the largest argument, and few are kept for the backward pass.
        No address outside the tensors is read or written, and every number of the results is written.
    Each kernel must also compile for a Hopper GPU (compute capability 9.0), to tensor-core instructions in half
    precision, and fit into its 227 KB of shared memory.

    Args:
        q: (B, S_q, H, D), float16, bfloat16 or float32. D is a multiple of 8, at most 128. No argument need be
            contiguous.
        k: (B, S_k, H_k, D), of q's dtype. H is a multiple of H_k, and head h reads key/value head h // (H / H_k).
        v: (B, S_k, H_k, D), of q's dtype.
        causal: no query sees a key after its own position.
        softmax_scale: what the scores are multiplied by; None means 1 / √D.

    Returns:
        (B, S_q, H, D), of q's dtype; products and sums are accumulated in float32. A query that sees no key gets 0, and
        no gradient flows through it. Differentiable in q, k and v, once. The arguments are not modified.

    Raises:
        ValueError: H is not a multiple of H_k (the message names both numbers); D is not a multiple of 8, or exceeds
            128 (the message names it).
    """
    heads, kv_heads, width = q.size(2), k.size(2), q.size(3)
    if heads % kv_heads:
        raise ValueError(f"q has {heads} heads, not a multiple of the {kv_heads} heads of k and v")
    if width % 8 or width > 128:
        raise ValueError(f"the width of a head must be a multiple of 8 and at most 128, not {width}")
    return _FlashAttention.apply(q, k, v, causal, 1 / math.sqrt(width) if softmax_scale is None else softmax_scale)


# --- launching ------------------------------------------------------------------------------------------------------

# How the work is cut for Hopper, by the width of a head: queries and keys in a tile, warps that share it, and tiles
# under way at once (num_stages). In half precision no registers spill, except 68 bytes in `_backward_kv` at D = 128
# with causal (Triton 3.7). float32, twice as large and without tensor cores, has small tiles.
_FORWARD_TILES = {64: (128, 128, 8, 3), 128: (128, 128, 8, 2)}
_BACKWARD_Q_TILES = {64: (128, 64, 8, 3), 128: (128, 64, 8, 2)}
_BACKWARD_KV_TILES = {64: (64, 128, 8, 2), 128: (64, 128, 8, 2)}
_FLOAT32_TILES = (32, 32, 8, 1)


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
        q, k, v = _aligned(q), _aligned(k), _aligned(v)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        lse = q.new_empty(q.size(0), q.size(2), q.size(1), dtype=torch.float32)  # (B, H, S_q), in base 2
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.causal, ctx.scale = causal, scale
        if k.size(1) == 0:
            return out.zero_()
        if out.numel() > 0:
            block_q, block_k, tiling = _tiling(_FORWARD_TILES, q)
            Q, O = _tiles(q, block_q), _tiles(out, block_q)
            K, V = _tiles(k, block_k), _tiles(v, block_k)
            _forward[_grid(q, block_q)](Q, K, V, O, lse, *_sizes(q, k), scale, CAUSAL=causal, **tiling)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
        if q.numel() == 0 or k.numel() == 0:
            return dq.zero_(), dk.zero_(), dv.zero_(), None, None
        dout, delta = _aligned(dout), torch.empty_like(lse)
        rest = (lse, delta, *_sizes(q, k), ctx.scale)

        block_q, block_k, tiling = _tiling(_BACKWARD_Q_TILES, q)
        Q, O, dO, dQ = (_tiles(x, block_q) for x in (q, out, dout, dq))
        K, V = _tiles(k, block_k), _tiles(v, block_k)
        _backward_q[_grid(q, block_q)](Q, K, V, O, dO, dQ, *rest, CAUSAL=ctx.causal, **tiling)  # writes delta

        block_q, block_k, tiling = _tiling(_BACKWARD_KV_TILES, q)
        Q, dO = _tiles(q, block_q), _tiles(dout, block_q)
        dK, dV = _tiles(dk, block_k), _tiles(dv, block_k)
        by_pointer = (k, v, k.stride(), v.stride(), q.size(3))
        _backward_kv[_grid(k, block_k)](Q, *by_pointer, dO, dK, dV, *rest, CAUSAL=ctx.causal, **tiling)  # reads delta
        return dq, dk, dv, None, None


def _tiling(table: dict[int, tuple[int, int, int, int]], q: Tensor) -> tuple[int, int, dict[str, int]]:
    """BLOCK_Q, BLOCK_K, and all the constants that a kernel is compiled with."""
    width = max(16, triton.next_power_of_2(q.size(3)))
    block_q, block_k, warps, stages = _FLOAT32_TILES if q.dtype is torch.float32 else table[max(64, width)]
    constants = {"BLOCK_Q": block_q, "BLOCK_K": block_k, "BLOCK_D": width, "num_warps": warps, "num_stages": stages}
    return block_q, block_k, constants


def _grid(x: Tensor, block: int) -> tuple[int, int]:
    """One program for each tile of each head."""
    return triton.cdiv(x.size(1), block), x.size(0) * x.size(2)


def _sizes(q: Tensor, k: Tensor) -> tuple[int, int, int, int]:
    """S_q, S_k, H and G."""
    return q.size(1), k.size(1), q.size(2), q.size(2) // k.size(2)


def _tiles(x: Tensor, block: int) -> TensorDescriptor:
    """x (B, S, H, D), to be loaded and stored in tiles of (1, block, 1, BLOCK_D).

    Hopper's TMA works from such a descriptor. Outside the tensor it reads 0 and writes nothing.
    """
    return TensorDescriptor.from_tensor(x, [1, block, 1, max(16, triton.next_power_of_2(x.size(3)))])


def _aligned(x: Tensor) -> Tensor:
    """x, or a copy where TMA could not read it: its rows must begin at multiples of 16 bytes."""
    steps = [stride * x.element_size() for stride in x.stride()[:-1]]
    fits = x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and all(step > 0 and step % 16 == 0 for step in steps)
    return x if fits else x.clone(memory_format=torch.contiguous_format)


# --- kernels --------------------------------------------------------------------------------------------------------
# A program owns one tile of one head, Q_i or K_j, and loops over the tiles of the other. Q, K, O, dQ, … are descriptors
# of (B, S, H, D) tensors, LSE and DELTA pointers to (B, H, S_q). Scores are kept in base 2, s = q kᵀ · scale · log2(e),
# because the GPU's instruction is 2^x. Masks cost time, so tiles that every query of the program sees get none:
# `for MASKED in tl.static_range(2)` makes two loops, the first without a mask.

_LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def _forward(
    Q, K, V, O, LSE, S_q, S_k, H, G, scale,
    CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Algorithm 1 for one tile of queries."""
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    h_k = h // G
    # Under causal the last tiles have the most to do: they start first.
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_Q
    rows = first + tl.arange(0, BLOCK_Q)  # (BLOCK_Q,)
    q = Q.load([b, first, h, 0]).reshape(BLOCK_Q, BLOCK_D)
    m = tl.full([BLOCK_Q], -1e38, tl.float32)  # running maximum, finite: -inf - m is never NaN
    l = tl.zeros([BLOCK_Q], tl.float32)  # running sum of 2^(s - m)
    o = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)  # not yet divided by l

    full, end = _seen_keys(first, S_q, S_k, CAUSAL, BLOCK_Q, BLOCK_K)
    for MASKED in tl.static_range(2):
        for j in tl.range(full if MASKED else 0, end if MASKED else full, BLOCK_K):
            k = K.load([b, j, h_k, 0]).reshape(BLOCK_K, BLOCK_D)
            s = tl.dot(q, k.T, input_precision="ieee") * (scale * _LOG2_E)  # (BLOCK_Q, BLOCK_K)
            if MASKED:
                columns = j + tl.arange(0, BLOCK_K)  # (BLOCK_K,)
                s = tl.where(_sees(rows[:, None], columns[None, :], S_q, S_k, CAUSAL), s, -float("inf"))
            m_new = tl.maximum(m, tl.max(s, 1))  # (BLOCK_Q,)
            p = tl.exp2(s - m_new[:, None])  # (BLOCK_Q, BLOCK_K)
            rescale = tl.exp2(m - m_new)  # l and o so far are relative to the old maximum
            l = l * rescale + tl.sum(p, 1)
            v = V.load([b, j, h_k, 0]).reshape(BLOCK_K, BLOCK_D)
            o = tl.dot(p.to(v.dtype), v, o * rescale[:, None], input_precision="ieee")  # (BLOCK_Q, BLOCK_D)
            m = m_new

    sees = l > 0
    l = tl.where(sees, l, 1.0)
    O.store([b, first, h, 0], (o / l[:, None]).to(q.dtype).reshape(1, BLOCK_Q, 1, BLOCK_D))
    lse = tl.where(sees, m + tl.log2(l), float("inf"))  # inf: backward, 2^(s - inf) = 0 where nothing is seen
    tl.store(LSE + tl.program_id(1).to(tl.int64) * S_q + rows, lse, mask=rows < S_q)


@triton.jit
def _backward_q(
    Q, K, V, O, dO, dQ, LSE, DELTA, S_q, S_k, H, G, scale,
    CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Algorithm 2 for one tile of queries: dQ_i = Σ_j dS_ij K_j, and delta_i = rowsum(dO ∘ O) for `_backward_kv`."""
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    h_k = h // G
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_Q
    rows = first + tl.arange(0, BLOCK_Q)  # (BLOCK_Q,)
    at = tl.program_id(1).to(tl.int64) * S_q + rows
    q = Q.load([b, first, h, 0]).reshape(BLOCK_Q, BLOCK_D)
    do = dO.load([b, first, h, 0]).reshape(BLOCK_Q, BLOCK_D)
    o = O.load([b, first, h, 0]).reshape(BLOCK_Q, BLOCK_D)
    delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)  # (BLOCK_Q,)
    tl.store(DELTA + at, delta, mask=rows < S_q)
    lse = tl.load(LSE + at, mask=rows < S_q, other=float("inf"))  # (BLOCK_Q,)
    dq = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)

    full, end = _seen_keys(first, S_q, S_k, CAUSAL, BLOCK_Q, BLOCK_K)
    for MASKED in tl.static_range(2):
        for j in tl.range(full if MASKED else 0, end if MASKED else full, BLOCK_K):
            k = K.load([b, j, h_k, 0]).reshape(BLOCK_K, BLOCK_D)
            v = V.load([b, j, h_k, 0]).reshape(BLOCK_K, BLOCK_D)
            s = tl.dot(q, k.T, input_precision="ieee") * (scale * _LOG2_E)  # (BLOCK_Q, BLOCK_K), as p, dp and ds
            if MASKED:
                columns = j + tl.arange(0, BLOCK_K)  # (BLOCK_K,)
                s = tl.where(_sees(rows[:, None], columns[None, :], S_q, S_k, CAUSAL), s, -float("inf"))
            p = tl.exp2(s - lse[:, None])
            dp = tl.dot(do, v.T, input_precision="ieee")
            ds = p * (dp - delta[:, None])
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")  # (BLOCK_Q, BLOCK_D)
    dQ.store([b, first, h, 0], (dq * scale).to(q.dtype).reshape(1, BLOCK_Q, 1, BLOCK_D))


@triton.jit
def _backward_kv(
    Q, K, V, stride_k, stride_v, D, dO, dK, dV, LSE, DELTA, S_q, S_k, H, G, scale,
    CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Algorithm 2 for one tile of keys: dK_j = Σ_i dS_ijᵀ Q_i and dV_j = Σ_i P_ijᵀ dO_i, over all G heads that read it.

    Scores are computed transposed, so that Pᵀ and dSᵀ go from registers straight into the next product.

    K and V are pointers here. K_j and V_j are left factors of products: loaded by pointers they stay in shared memory,
    but loaded through a descriptor and a reshape the compiler puts them into registers, of which there are too few.
    """
    b, h_k = tl.program_id(1) // (H // G), tl.program_id(1) % (H // G)
    first = tl.program_id(0) * BLOCK_K
    columns = first + tl.arange(0, BLOCK_K)  # (BLOCK_K,)
    k = _load(K, stride_k, b, columns, h_k, S_k, D, BLOCK_D)  # (BLOCK_K, BLOCK_D), as v, dk and dv
    v = _load(V, stride_v, b, columns, h_k, S_k, D, BLOCK_D)
    dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)

    start, full = _seeing_queries(first, S_q, S_k, CAUSAL, BLOCK_Q, BLOCK_K)
    for h in tl.range(h_k * G, (h_k + 1) * G):
        for MASKED in tl.static_range(1, -1, -1):  # here the masked tiles come first
            for i in tl.range(start if MASKED else full, full if MASKED else S_q, BLOCK_Q):
                rows = i + tl.arange(0, BLOCK_Q)  # (BLOCK_Q,)
                at = (b * H + h).to(tl.int64) * S_q + rows
                q = Q.load([b, i, h, 0]).reshape(BLOCK_Q, BLOCK_D)
                do = dO.load([b, i, h, 0]).reshape(BLOCK_Q, BLOCK_D)
                lse = tl.load(LSE + at, mask=rows < S_q, other=float("inf"))  # beyond the last query p is 0
                delta = tl.load(DELTA + at, mask=rows < S_q, other=0.0)  # (BLOCK_Q,), as lse
                s = tl.dot(k, q.T, input_precision="ieee") * (scale * _LOG2_E)  # (BLOCK_K, BLOCK_Q), as p, dp and ds
                if MASKED:
                    s = tl.where(_sees(rows[None, :], columns[:, None], S_q, S_k, CAUSAL), s, -float("inf"))
                p = tl.exp2(s - lse[None, :])
                dv = tl.dot(p.to(do.dtype), do, dv, input_precision="ieee")
                dp = tl.dot(v, do.T, input_precision="ieee")
                ds = p * (dp - delta[None, :])
                dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    dK.store([b, first, h_k, 0], (dk * scale).to(k.dtype).reshape(1, BLOCK_K, 1, BLOCK_D))
    dV.store([b, first, h_k, 0], dv.to(k.dtype).reshape(1, BLOCK_K, 1, BLOCK_D))


@triton.jit
def _load(X, stride, b, rows, h, length, D, BLOCK_D: tl.constexpr):
    """One tile (rows, BLOCK_D) of X (B, S, H, D), by pointers; 0 where it reaches beyond X."""
    d = tl.arange(0, BLOCK_D)
    at = b.to(tl.int64) * stride[0] + rows[:, None].to(tl.int64) * stride[1] + h * stride[2] + d[None, :]
    return tl.load(X + at, mask=(rows[:, None] < length) & (d[None, :] < D), other=0.0)


# --- which queries see which keys -----------------------------------------------------------------------------------


@triton.jit
def _sees(rows, columns, S_q, S_k, CAUSAL: tl.constexpr):
    """Whether the queries see the keys."""
    seen = columns < S_k
    if CAUSAL:
        seen = seen & (columns <= rows + S_k - S_q)
    return seen


@triton.jit
def _seen_keys(first, S_q, S_k, CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr):
    """(full, end): the queries of a tile see all keys before `full`, a multiple of BLOCK_K, and none from `end` on."""
    full, end = S_k, S_k
    if CAUSAL:
        full = tl.minimum(tl.maximum(first + 1 + S_k - S_q, 0), S_k)  # what the first query of the tile sees
        end = tl.minimum(tl.maximum(first + BLOCK_Q + S_k - S_q, 0), S_k)  # and the last one
    return full // BLOCK_K * BLOCK_K, end


@triton.jit
def _seeing_queries(first, S_q, S_k, CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr):
    """(start, full), multiples of BLOCK_Q: queries before `start` see no key of a tile, those from `full` on all."""
    start, full = 0, 0
    if CAUSAL:
        start = tl.maximum(first + S_q - S_k, 0) // BLOCK_Q * BLOCK_Q
        full = tl.cdiv(tl.minimum(tl.maximum(first + BLOCK_K - 1 + S_q - S_k, 0), S_q), BLOCK_Q) * BLOCK_Q
    return start, full

"""FlashAttention-2 (Dao 2023, arXiv:2307.08691) as Triton kernels, forward and backward, for Hopper.

Sizes in the shapes below: B batch, S_q queries, S_k keys, D the width of a head, H query heads, H_k key/value heads,
G = H / H_k query heads to each of them. A tile is BLOCK_Q queries or BLOCK_K keys of one head.
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

    The arithmetic, forward and backward, is done in `@triton.jit` kernels; rowsum(dO ∘ O), and the sum over heads that
    share a key head, may be PyTorch's. The kernels run on a GPU, and on a CPU in Triton's interpreter
    (TRITON_INTERPRET=1), which is told the following:
        Products are `tl.dot`'s, no dimension of them below 16. float32 is multiplied in float32 (`input_precision`
        "ieee" or "tf32x3").
        A tile is at most 128 queries by 128 keys. With causal, one in which no query sees a key is not computed: not
        even NaN in it shows.
        No tensor is made that has more numbers than the largest argument, and few are kept for the backward pass.
        No address outside the tensors is read or written, and every number of the results is written.
    And each kernel compiles for a Hopper GPU (compute capability 9.0), to tensor-core instructions in half precision,
    in its 227 KB of shared memory.

    Args:
        q: (B, S_q, H, D), float16, bfloat16 or float32. D is a multiple of 8, at most 128. No argument need be
            contiguous.
        k: (B, S_k, H_k, D), of q's dtype. H is a multiple of H_k, and head h reads key/value head h // (H / H_k).
        v: (B, S_k, H_k, D), of q's dtype.
        causal: no query sees a key after its own position.
        softmax_scale: what the scores are multiplied by; None means 1 / √D.

    Returns:
        (B, S_q, H, D), of q's dtype; products and sums are accumulated in float32. A query that sees no key gets 0, and
        no gradient flows through it. Differentiable in q, k and v, once. The arguments are left as they were.

    Raises:
        ValueError: H is no multiple of H_k (the message names both numbers); D is no multiple of 8, or more than 128
            (the message names it).
    """
    heads, kv_heads, width = q.size(2), k.size(2), q.size(3)
    if heads % kv_heads:
        raise ValueError(f"q has {heads} heads, which is no multiple of the {kv_heads} of k and v")
    if width % 8 or width > 128:
        raise ValueError(f"the width of a head must be a multiple of 8, at most 128, not {width}")
    return _FlashAttention.apply(q, k, v, causal, 1 / math.sqrt(width) if softmax_scale is None else softmax_scale)


# --- what is launched -----------------------------------------------------------------------------------------------

# How the work is cut for Hopper: queries and keys in a tile, warps that share it, and how many tiles are under way at
# once, by the width of a head. In half precision no registers spill, but for a few in `_backward_kv` at D = 128 with
# causal (68 bytes, Triton 3.7). float32, without tensor cores and twice as large, has small tiles.
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
            rows, columns = [_tiles(x, block_q) for x in (q, out)], [_tiles(x, block_k) for x in (k, v)]
            _forward[_grid(q, block_q)](*rows, *columns, lse, *_sizes(q, k), scale, CAUSAL=causal, **tiling)
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
        rows = [_tiles(x, block_q) for x in (q, out, dout, dq)]
        columns = [_tiles(x, block_k) for x in (k, v)]
        _backward_q[_grid(q, block_q)](*rows, *columns, *rest, CAUSAL=ctx.causal, **tiling)  # delta is written here

        block_q, block_k, tiling = _tiling(_BACKWARD_KV_TILES, q)
        rows = [_tiles(x, block_q) for x in (q, dout)]
        columns = [_tiles(x, block_k) for x in (dk, dv)]
        columns += [k, v, k.stride(), v.stride(), q.size(3)]
        _backward_kv[_grid(k, block_k)](*rows, *columns, *rest, CAUSAL=ctx.causal, **tiling)  # and read there
        return dq, dk, dv, None, None


def _tiling(table: dict[int, tuple[int, int, int, int]], q: Tensor) -> tuple[int, int, dict[str, int]]:
    """BLOCK_Q, BLOCK_K, and all the constants that a kernel is compiled with."""
    width = max(16, triton.next_power_of_2(q.size(3)))
    block_q, block_k, warps, stages = _FLOAT32_TILES if q.dtype is torch.float32 else table[max(64, width)]
    constants = {"BLOCK_Q": block_q, "BLOCK_K": block_k, "BLOCK_D": width, "num_warps": warps, "num_stages": stages}
    return block_q, block_k, constants


def _grid(x: Tensor, block: int) -> tuple[int, int]:
    """A program for each tile of each head."""
    return triton.cdiv(x.size(1), block), x.size(0) * x.size(2)


def _sizes(q: Tensor, k: Tensor) -> tuple[int, int, int, int]:
    """S_q, S_k, H and G."""
    return q.size(1), k.size(1), q.size(2), q.size(2) // k.size(2)


def _tiles(x: Tensor, block: int) -> TensorDescriptor:
    """x (B, S, H, D), to be loaded and stored in tiles of (1, block, 1, BLOCK_D).

    This is what Hopper's TMA works from. What lies outside the tensor is read as 0 and not written.
    """
    return TensorDescriptor.from_tensor(x, [1, block, 1, max(16, triton.next_power_of_2(x.size(3)))])


def _aligned(x: Tensor) -> Tensor:
    """x, copied where TMA could not read it: it takes rows that begin at multiples of 16 bytes."""
    steps = [stride * x.element_size() for stride in x.stride()[:-1]]
    fits = x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and all(step > 0 and step % 16 == 0 for step in steps)
    return x if fits else x.clone(memory_format=torch.contiguous_format)


# --- kernels --------------------------------------------------------------------------------------------------------
# A program works on one tile of one head, Q_i or K_j, and loops over the tiles of the other. Scores are kept in base 2,
# s = q kᵀ · scale · log2(e), because the GPU's instruction is 2^x. Only tiles that need it are masked.

_LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def _forward(
    Q, O, K, V, LSE, S_q, S_k, H, G, scale,
    CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Algorithm 1 for one tile of queries."""
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    # The last tiles have the most to do under causal: they start first.
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_Q
    rows = first + tl.arange(0, BLOCK_Q)
    q = Q.load([b, first, h, 0]).reshape(BLOCK_Q, BLOCK_D)
    m = tl.full([BLOCK_Q], -1e38, tl.float32)  # running maximum, finite: -inf - m is never NaN
    l = tl.zeros([BLOCK_Q], tl.float32)  # running sum of 2^(s - m)
    o = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)  # not yet divided by l

    full, end = _seen_keys(first, S_q, S_k, CAUSAL, BLOCK_Q, BLOCK_K)
    o, l, m = _attend(o, l, m, q, K, V, b, h // G, rows, S_q, S_k, scale, 0, full, CAUSAL, False, BLOCK_K, BLOCK_D)
    o, l, m = _attend(o, l, m, q, K, V, b, h // G, rows, S_q, S_k, scale, full, end, CAUSAL, True, BLOCK_K, BLOCK_D)

    sees = l > 0
    l = tl.where(sees, l, 1.0)
    O.store([b, first, h, 0], (o / l[:, None]).to(q.dtype).reshape(1, BLOCK_Q, 1, BLOCK_D))
    lse = tl.where(sees, m + tl.log2(l), float("inf"))  # inf: backward, 2^(s - inf) = 0 where nothing is seen
    tl.store(LSE + tl.program_id(1).to(tl.int64) * S_q + rows, lse, mask=rows < S_q)


@triton.jit
def _attend(
    o, l, m, q, K, V, b, h, rows, S_q, S_k, scale, start, end,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The inner loop of Algorithm 1, over the keys from start to end."""
    for j in tl.range(start, end, BLOCK_K):
        k = K.load([b, j, h, 0]).reshape(BLOCK_K, BLOCK_D)
        s = tl.dot(q, k.T, input_precision="ieee") * (scale * _LOG2_E)  # (BLOCK_Q, BLOCK_K)
        if MASKED:
            s = tl.where(_sees(rows[:, None], j + tl.arange(0, BLOCK_K)[None, :], S_q, S_k, CAUSAL), s, -float("inf"))
        m_new = tl.maximum(m, tl.max(s, 1))
        p = tl.exp2(s - m_new[:, None])
        rescale = tl.exp2(m - m_new)  # what was summed up so far was relative to the old maximum
        l = l * rescale + tl.sum(p, 1)
        v = V.load([b, j, h, 0]).reshape(BLOCK_K, BLOCK_D)
        o = tl.dot(p.to(v.dtype), v, o * rescale[:, None], input_precision="ieee")
        m = m_new
    return o, l, m


@triton.jit
def _backward_q(
    Q, O, dO, dQ, K, V, LSE, DELTA, S_q, S_k, H, G, scale,
    CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Algorithm 2 for one tile of queries: dQ_i, and delta_i = rowsum(dO ∘ O) for `_backward_kv`."""
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_Q
    rows = first + tl.arange(0, BLOCK_Q)
    at = tl.program_id(1).to(tl.int64) * S_q + rows
    q = Q.load([b, first, h, 0]).reshape(BLOCK_Q, BLOCK_D)
    do = dO.load([b, first, h, 0]).reshape(BLOCK_Q, BLOCK_D)
    o = O.load([b, first, h, 0]).reshape(BLOCK_Q, BLOCK_D)
    delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(DELTA + at, delta, mask=rows < S_q)
    lse = tl.load(LSE + at, mask=rows < S_q, other=float("inf"))
    dq = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)

    full, end = _seen_keys(first, S_q, S_k, CAUSAL, BLOCK_Q, BLOCK_K)
    dq = _gather_dq(
        dq, q, do, lse, delta, K, V, b, h // G, rows, S_q, S_k, scale, 0, full, CAUSAL, False, BLOCK_K, BLOCK_D
    )
    dq = _gather_dq(
        dq, q, do, lse, delta, K, V, b, h // G, rows, S_q, S_k, scale, full, end, CAUSAL, True, BLOCK_K, BLOCK_D
    )
    dQ.store([b, first, h, 0], (dq * scale).to(q.dtype).reshape(1, BLOCK_Q, 1, BLOCK_D))


@triton.jit
def _gather_dq(
    dq, q, do, lse, delta, K, V, b, h, rows, S_q, S_k, scale, start, end,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """dQ_i += dS_ij K_j, over the keys from start to end."""
    for j in tl.range(start, end, BLOCK_K):
        k = K.load([b, j, h, 0]).reshape(BLOCK_K, BLOCK_D)
        v = V.load([b, j, h, 0]).reshape(BLOCK_K, BLOCK_D)
        s = tl.dot(q, k.T, input_precision="ieee") * (scale * _LOG2_E)  # (BLOCK_Q, BLOCK_K)
        if MASKED:
            s = tl.where(_sees(rows[:, None], j + tl.arange(0, BLOCK_K)[None, :], S_q, S_k, CAUSAL), s, -float("inf"))
        p = tl.exp2(s - lse[:, None])
        dp = tl.dot(do, v.T, input_precision="ieee")
        ds = p * (dp - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit
def _backward_kv(
    Q, dO, dK, dV, K, V, stride_k, stride_v, D, LSE, DELTA, S_q, S_k, H, G, scale,
    CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Algorithm 2 for one tile of keys: dK_j and dV_j, from all G heads that read it.

    K_j and V_j are the left factors of products here. The compiler leaves them in shared memory where they come from
    pointers, and puts them into registers, of which there are too few, where they come through a reshape.
    """
    b, h_k = tl.program_id(1) // (H // G), tl.program_id(1) % (H // G)
    first = tl.program_id(0) * BLOCK_K
    columns = first + tl.arange(0, BLOCK_K)
    k = _load(K, stride_k, b, columns, h_k, S_k, D, BLOCK_D)
    v = _load(V, stride_v, b, columns, h_k, S_k, D, BLOCK_D)
    dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)

    start, full = _seeing_queries(first, S_q, S_k, CAUSAL, BLOCK_Q, BLOCK_K)
    for h in tl.range(h_k * G, (h_k + 1) * G):
        dk, dv = _gather_dkv(
            dk, dv, k, v, Q, dO, LSE, DELTA, b, h, H, columns, S_q, S_k, scale, start, full, CAUSAL, True,
            BLOCK_Q, BLOCK_D,
        )  # fmt: skip
        dk, dv = _gather_dkv(
            dk, dv, k, v, Q, dO, LSE, DELTA, b, h, H, columns, S_q, S_k, scale, full, S_q, CAUSAL, False,
            BLOCK_Q, BLOCK_D,
        )  # fmt: skip
    dK.store([b, first, h_k, 0], (dk * scale).to(k.dtype).reshape(1, BLOCK_K, 1, BLOCK_D))
    dV.store([b, first, h_k, 0], dv.to(k.dtype).reshape(1, BLOCK_K, 1, BLOCK_D))


@triton.jit
def _load(X, stride, b, rows, h, length, D, BLOCK_D: tl.constexpr):
    """One tile (rows, BLOCK_D) of X (B, S, H, D), by pointers; 0 where it reaches beyond X."""
    d = tl.arange(0, BLOCK_D)
    at = b.to(tl.int64) * stride[0] + rows[:, None].to(tl.int64) * stride[1] + h * stride[2] + d[None, :]
    return tl.load(X + at, mask=(rows[:, None] < length) & (d[None, :] < D), other=0.0)


@triton.jit
def _gather_dkv(
    dk, dv, k, v, Q, dO, LSE, DELTA, b, h, H, columns, S_q, S_k, scale, start, end,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """dK_j += dS_ijᵀ Q_i and dV_j += P_ijᵀ dO_i, over the queries from start to end.

    Scores are computed transposed, so that Pᵀ and dSᵀ go from registers straight into the next product.
    """
    for i in tl.range(start, end, BLOCK_Q):
        rows = i + tl.arange(0, BLOCK_Q)
        at = (b * H + h).to(tl.int64) * S_q + rows
        q = Q.load([b, i, h, 0]).reshape(BLOCK_Q, BLOCK_D)
        do = dO.load([b, i, h, 0]).reshape(BLOCK_Q, BLOCK_D)
        lse = tl.load(LSE + at, mask=rows < S_q, other=float("inf"))  # no weight for rows beyond the last query
        delta = tl.load(DELTA + at, mask=rows < S_q, other=0.0)
        s = tl.dot(k, q.T, input_precision="ieee") * (scale * _LOG2_E)  # (BLOCK_K, BLOCK_Q)
        if MASKED:
            s = tl.where(_sees(rows[None, :], columns[:, None], S_q, S_k, CAUSAL), s, -float("inf"))
        p = tl.exp2(s - lse[None, :])
        dv = tl.dot(p.to(do.dtype), do, dv, input_precision="ieee")
        dp = tl.dot(v, do.T, input_precision="ieee")
        ds = p * (dp - delta[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    return dk, dv


# --- who sees whom --------------------------------------------------------------------------------------------------


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

"""Attention in tiles: FlashAttention-2 (Dao 2023, arXiv:2307.08691), and FlashAttention-3's FP8 (arXiv:2407.08608).

Sizes in the shapes below: B batch, S_q queries, S_k keys, D the width of a head, D_v of its values, H query heads, H_k
key/value heads, G = H / H_k query heads to each of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
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
    raise NotImplementedError


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
    raise NotImplementedError


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
    raise NotImplementedError


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
    raise NotImplementedError

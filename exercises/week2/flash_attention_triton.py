"""FlashAttention-2 (Dao 2023, arXiv:2307.08691) as Triton kernels, forward and backward, for Hopper.

Sizes in the shapes below: B batch, S_q queries, S_k keys, D the width of a head, H query heads, H_k key/value heads,
G = H / H_k query heads per key/value head. A tile is BLOCK_Q queries or BLOCK_K keys of one head.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor


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
    raise NotImplementedError

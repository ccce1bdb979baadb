"""Self-attention: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), sections 3.2.1 and 3.2.2.

Sizes in the shapes below: B batch, H heads, L queries, S keys, E embedding, D = E / H the width of one head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention(Q, K, V) = softmax(Q Kᵀ / √D) V: equation 1 of the paper.

    Arguments and result are those of `torch.nn.functional.scaled_dot_product_attention`. There may be any number of
    leading dimensions, including none: (L, D), (H, L, D), (B, H, L, D), … The batch, or L, may be empty.

    Args:
        query: (..., H, L, D), float16, bfloat16, float32 or float64. No argument need be contiguous.
        key: (..., H, S, D), of query's dtype.
        value: (..., H, S, D_v), of query's dtype. D_v may differ from D, and S from L.
        attn_mask: of any shape that broadcasts to (..., H, L, S), from 1-D (S,) to 4-D.
            Boolean: True = this query may attend to this key. Floating-point, of query's dtype: added to the scaled
            scores, so -inf hides a key.
        dropout_p: probability, 0 ≤ dropout_p < 1, of setting an attention weight to 0, independently for each weight
            and each call; the weights that are kept are divided by 1 - dropout_p. A function has no training mode:
            dropout applies whenever dropout_p > 0.
        is_causal: query i sees keys 0 … i, counted from the first query and the first key even if L ≠ S (the mask is
            aligned top-left).
        scale: the factor applied to the scores; None means 1 / √D.
        enable_gqa: key and value may have fewer heads than query: H_kv heads, where H is a multiple of H_kv. Query
            head h then uses key/value head h // (H / H_kv): neighbouring query heads share one.

    Returns:
        (..., H, L, D_v), of query's dtype, computed in that dtype or a wider one: a new tensor. The arguments are not
        modified.
        A query that sees no key gets zeros. It makes no gradient NaN and contributes nothing to any gradient.
        Scores may be large, 10⁴ and more in float32, as long as they are finite.
        Differentiable in query, key, value and a floating-point attn_mask.

    Raises:
        ValueError: attn_mask is given and is_causal is True. With enable_gqa, H is not a multiple of H_kv (the message
            names both numbers).
    """
    raise NotImplementedError


class MultiheadAttention(nn.Module):
    """MultiHead(Q, K, V) = Concat(head₁, …, head_H) Wᴼ with headᵢ = Attention(Q Wᵢ^Q, K Wᵢ^K, V Wᵢ^V): section 3.2.2.

    Interchangeable with `torch.nn.MultiheadAttention`: the same state dict, the same arguments to `forward`, the same
    results. Only the default of batch_first differs.

    State dict: in_proj_weight (3E, E), in_proj_bias (3E,), out_proj.weight (E, E), out_proj.bias (E,). The rows of
    in_proj_* project query, key and value, in this order, E rows each; of each E rows, h·D … (h+1)·D - 1 belong to
    head h. A new module is initialised like PyTorch's: in_proj_weight by `nn.init.xavier_uniform_` as one (3E, E)
    matrix, out_proj.weight as in `nn.Linear`, both biases 0.

    Args:
        embed_dim: E, the width of query, key, value and output.
        num_heads: H. Each head is D = E / H wide.
        dropout: probability of dropping an attention weight in training mode; there is no dropout in eval mode.
        bias: False omits in_proj_bias and out_proj.bias.
        batch_first: batched tensors are (B, L, E) if True, (L, B, E) if False.

    Raises:
        ValueError: embed_dim is not a multiple of num_heads; the message names both numbers.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, batch_first: bool = True
    ) -> None:
        raise NotImplementedError

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Let each query attend to the keys, in every head.

        Boolean masks mean the opposite of `scaled_dot_product_attention`'s: True = this key may not be attended to.
        Floating-point masks, of query's dtype, are added to the scaled scores. If both masks are given, they are of
        the same kind, and a key hidden by either is hidden.

        Args:
            query: (B, L, E); (L, B, E) without batch_first; (L, E) for one sequence without a batch dimension.
            key: (B, S, E), (S, B, E) or (S, E).
            value: of key's shape.
            key_padding_mask: (B, S), or (S,) without a batch dimension: the same for every query and head.
            need_weights: False returns None in place of the weights.
            attn_mask: (L, S), the same for all, or (B·H, L, S) with the heads of one sequence side by side, head h of
                sequence b at b·H + h; (H, L, S) without a batch dimension.
            average_attn_weights: return the mean of the weights over the heads instead of the weights of each head.
            is_causal: a hint that attn_mask is the causal mask. On its own it hides nothing.

        Returns:
            The output, of query's shape, and the attention weights as applied, that is, after dropout: (B, L, S) if
            averaged, else (B, H, L, S); (L, S) or (H, L, S) without a batch dimension. Both are differentiable.
            The result for a query that sees no key is unspecified (PyTorch: NaN with need_weights, zeros without).

        Raises:
            ValueError: is_causal is True and attn_mask is None.
        """
        raise NotImplementedError

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
    if is_causal:
        if attn_mask is not None:
            raise ValueError(f"attn_mask must be None with is_causal=True, not of shape {tuple(attn_mask.shape)}")
        attn_mask = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool, device=query.device).tril()  # (L, S)
    if enable_gqa:
        key = _repeat_heads(key, query.size(-3))
        value = _repeat_heads(value, query.size(-3))
    output, _ = _attend(query, key, value, attn_mask, dropout_p, scale)
    return output


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
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} must be a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        nn.init.xavier_uniform_(self.in_proj_weight)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

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
        if is_causal and attn_mask is None:
            raise ValueError("is_causal=True only says that attn_mask is causal: attn_mask must be given, not None")
        batched = query.dim() == 3
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)

        w_q, w_k, w_v = self.in_proj_weight.chunk(3)  # (E, E) each
        b_q, b_k, b_v = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q = self._split_heads(F.linear(query, w_q, b_q))  # (B, H, L, D)
        k = self._split_heads(F.linear(key, w_k, b_k))  # (B, H, S, D)
        v = self._split_heads(F.linear(value, w_v, b_v))  # (B, H, S, D)

        mask = q.new_zeros(())  # added to the scores, broadcasts to (B, H, L, S)
        if attn_mask is not None:
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.view(query.size(0), self.num_heads, *attn_mask.shape[1:])  # (B, H, L, S)
            mask = mask + _additive(attn_mask, q.dtype)
        if key_padding_mask is not None:
            mask = mask + _additive(key_padding_mask, q.dtype)[..., None, None, :]  # (B, 1, 1, S)

        dropout_p = self.dropout if self.training else 0.0
        heads, weights = _attend(q, k, v, mask, dropout_p)  # (B, H, L, D), (B, H, L, S)
        output = self.out_proj(heads.transpose(1, 2).flatten(2))  # (B, L, E)
        if average_attn_weights:
            weights = weights.mean(dim=1)  # (B, L, S)

        if not batched:
            output, weights = output.squeeze(0), weights.squeeze(0)
        elif not self.batch_first:
            output = output.transpose(0, 1)
        return output, weights if need_weights else None

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, L, E) -> (B, H, L, D)."""
        batch, length, width = x.shape
        return x.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Equation 1: the output (..., L, D_v) and the weights (..., L, S) with which the values are averaged."""
    if scale is None:
        scale = 1 / math.sqrt(query.size(-1))
    scores = query @ key.transpose(-2, -1) * scale  # (..., L, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    weights = F.dropout(_softmax(scores), dropout_p)
    return weights @ value, weights


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension; a row that is all -inf gets weights of 0.

    Such a row is replaced *before* the softmax: repairing the result would leave NaN in the gradient, because the
    backward pass of softmax multiplies the NaN it returned by the incoming zero.
    """
    empty = (scores == -math.inf).all(dim=-1, keepdim=True)  # (..., L, 1)
    return torch.softmax(scores.masked_fill(empty, 0.0), dim=-1).masked_fill(empty, 0.0)


def _additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to the scores: 0 or -inf for a boolean one (True = hidden); a floating-point one as it is."""
    if hidden.dtype != torch.bool:
        return hidden
    return torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, -math.inf)


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """(..., H_kv, S, D) -> (..., H, S, D): one copy of each head for each query head that shares it, side by side."""
    if heads % x.size(-3):
        raise ValueError(f"query has {heads} heads, not a multiple of the {x.size(-3)} heads of key and value")
    return x.repeat_interleave(heads // x.size(-3), dim=-3)

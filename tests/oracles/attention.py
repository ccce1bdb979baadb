"""Reference for the attention exercises: plain formulas that compute in the dtype of their arguments.

In float64 they are the reference; in half precision they are "the plain formula in that dtype" of the closeness rule.
A function's `dims` name the dimensions of its outputs from the right, so that a report can say where an error is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def dims(*names: Any) -> Callable[[Function], Function]:
    """Name the dimensions of an oracle's output, or with one tuple of names each, of its several outputs."""

    def mark(function: Function) -> Function:
        function.dims = names  # type: ignore[attr-defined]
        return function

    return mark


@dims("batch", "head", "query", "channel")
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`. With dropout: the mean result, for any dropout_p."""
    heads, length = query.shape[:-2], query.size(-2)
    if enable_gqa:  # let the query heads of a group share their key/value head by broadcasting, (..., H_kv, G, L, D)
        groups = query.size(-3) // key.size(-3)
        query = query.reshape(*query.shape[:-3], key.size(-3), groups, *query.shape[-2:])
        key, value = key.unsqueeze(-3), value.unsqueeze(-3)
    scores = torch.einsum("...ld,...sd->...ls", query, key) * (query.size(-1) ** -0.5 if scale is None else scale)
    scores = scores.reshape(*heads, length, key.size(-2))
    if attn_mask is None:
        attn_mask = torch.ones((), dtype=torch.bool, device=scores.device)
    if is_causal:
        rows, columns = (torch.arange(n, device=scores.device) for n in scores.shape[-2:])
        attn_mask = attn_mask & (columns <= rows[:, None])
    weights = _weights(scores, attn_mask)
    if enable_gqa:
        weights = weights.reshape(*query.shape[:-1], key.size(-2))
    return torch.einsum("...ls,...sd->...ld", weights, value).reshape(*heads, length, value.size(-1))


@dims(("batch", "query", "channel"), ("batch", "head", "query", "key"))
def multihead_attention(
    state: Mapping[str, Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    num_heads: int,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    batch_first: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`torch.nn.MultiheadAttention` with this state dict, without dropout. A query that sees no key gets weights 0.

    `is_causal` changes nothing: it is a hint about attn_mask.
    """
    if query.dim() == 2:
        padding = None if key_padding_mask is None else key_padding_mask[None]
        output, weights = multihead_attention(
            state,
            query[None],
            key[None],
            value[None],
            num_heads=num_heads,
            key_padding_mask=padding,
            attn_mask=attn_mask,
            need_weights=need_weights,
            average_attn_weights=average_attn_weights,
        )
        return output[0], None if weights is None else weights[0]
    if not batch_first:
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)

    batch, length, width = query.shape
    head_dim = width // num_heads
    bias = state.get("in_proj_bias")
    projected = []
    for third, x in enumerate((query, key, value)):
        rows = slice(third * width, (third + 1) * width)
        y = x @ state["in_proj_weight"][rows].T
        y = y if bias is None else y + bias[rows]
        projected.append(y.reshape(batch, x.size(1), num_heads, head_dim))
    q, k, v = projected

    scores = torch.einsum("blhd,bshd->bhls", q, k) / math.sqrt(head_dim)
    visible = torch.ones_like(scores, dtype=torch.bool)
    if attn_mask is not None:
        mask = attn_mask if attn_mask.dim() == 2 else attn_mask.reshape(scores.shape)
        scores, visible = (scores, visible & ~mask) if mask.dtype == torch.bool else (scores + mask, visible)
    if key_padding_mask is not None:
        mask = key_padding_mask.reshape(batch, 1, 1, -1)
        scores, visible = (scores, visible & ~mask) if mask.dtype == torch.bool else (scores + mask, visible)
    weights = _weights(scores, visible)
    output = torch.einsum("bhls,bshd->blhd", weights, v).reshape(batch, length, width) @ state["out_proj.weight"].T
    if "out_proj.bias" in state:
        output = output + state["out_proj.bias"]
    if not batch_first:
        output = output.transpose(0, 1)
    if not need_weights:
        return output, None
    return output, weights.mean(1) if average_attn_weights else weights


def _weights(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the keys; a row that sees none has weights 0 and passes no gradient on.

    A boolean mask is True where a key may be seen; any other mask is added to the scores.
    """
    scores = torch.where(mask, scores, -math.inf) if mask.dtype == torch.bool else scores + mask.to(scores.dtype)
    sees = (scores > -math.inf).any(-1, keepdim=True)
    return torch.where(sees, torch.softmax(torch.where(sees, scores, 0.0), -1), 0.0)

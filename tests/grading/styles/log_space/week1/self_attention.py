"""Attention with weights exp(score - logsumexp(scores)); the module calls the function, and again for its weights."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if attn_mask is not None and is_causal:
        raise ValueError("is_causal=True and attn_mask exclude each other")
    if enable_gqa:
        times, rest = divmod(query.size(-3), key.size(-3))
        if rest:
            raise ValueError(f"{query.size(-3)} heads in query, {key.size(-3)} in key")
        key, value = (x.unsqueeze(-3).expand(*x.shape[:-2], times, *x.shape[-2:]).flatten(-4, -3) for x in (key, value))
    scores = (query * (query.size(-1) ** -0.5 if scale is None else scale)) @ key.mT
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    elif attn_mask is None:
        hidden = torch.zeros((), dtype=torch.bool, device=scores.device)
    elif attn_mask.dtype == torch.bool:
        hidden = ~attn_mask
    else:
        hidden = attn_mask == -math.inf
        scores = scores + attn_mask.masked_fill(hidden, 0.0)
    hidden = hidden.expand(scores.shape)
    empty = hidden.all(-1, keepdim=True)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    wide = wide.masked_fill(hidden & ~empty, -math.inf)
    logs = wide - wide.logsumexp(-1, keepdim=True)
    weights = logs.exp().masked_fill(empty, 0.0).to(query.dtype)
    return F.dropout(weights, dropout_p) @ value


class MultiheadAttention(nn.Module):
    def __init__(self, embed_dim, num_heads, dropout=0.0, bias=True, batch_first=True):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim ({embed_dim}) must be divisible by num_heads ({num_heads})")
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * embed_dim)) if bias else None
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        nn.init.xavier_uniform_(self.in_proj_weight)
        for each in (self.in_proj_bias, self.out_proj.bias):
            if each is not None:
                nn.init.zeros_(each)

    def forward(
        self,
        query,
        key,
        value,
        key_padding_mask=None,
        need_weights=True,
        attn_mask=None,
        average_attn_weights=True,
        is_causal=False,
    ):
        if is_causal and attn_mask is None:
            raise ValueError("is_causal=True, but attn_mask is None")
        alone = query.dim() == 2
        if alone:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        batch, length, keys = query.size(0), query.size(1), key.size(1)
        biases = self.in_proj_bias.chunk(3) if self.in_proj_bias is not None else (None,) * 3
        width = self.embed_dim // self.num_heads
        projected = [
            F.linear(x, w, b).reshape(batch, x.size(1), self.num_heads, width).transpose(1, 2)
            for x, w, b in zip((query, key, value), self.in_proj_weight.chunk(3), biases, strict=True)
        ]
        mask = torch.zeros(batch, self.num_heads, length, keys, dtype=query.dtype, device=query.device)
        if attn_mask is not None:
            attn_mask = self._float(attn_mask, query.dtype)
            mask = mask + (attn_mask if attn_mask.dim() == 2 else attn_mask.reshape(mask.shape))
        if key_padding_mask is not None:
            mask = mask + self._float(key_padding_mask, query.dtype).reshape(-1, 1, 1, keys)
        eye = torch.eye(keys, dtype=query.dtype, device=query.device).expand(batch, self.num_heads, keys, keys)
        drop = self.dropout if self.training else 0.0
        weights = scaled_dot_product_attention(projected[0], projected[1], eye, mask, drop)
        heads = weights @ projected[2] if need_weights else scaled_dot_product_attention(*projected, mask, drop)
        output = self.out_proj(heads.transpose(1, 2).reshape(batch, length, self.embed_dim))
        if average_attn_weights:
            weights = weights.sum(1) / self.num_heads
        if alone:
            output, weights = output[0], weights[0]
        elif not self.batch_first:
            output = output.transpose(0, 1)
        return output, (weights if need_weights else None)

    @staticmethod
    def _float(mask, dtype):
        return torch.where(mask, -math.inf, 0.0).to(dtype) if mask.dtype == torch.bool else mask

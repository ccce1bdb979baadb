"""Attention that computes in float64 for every input dtype."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if attn_mask is not None and is_causal:
        raise ValueError("attn_mask is not None and is_causal is True")
    if enable_gqa:
        if query.size(-3) % key.size(-3):
            raise ValueError(f"H={query.size(-3)} is no multiple of H_kv={key.size(-3)}")
        # (H_kv, G, L, D) against (H_kv, 1, S, D)
        grouped = query.unflatten(-3, (key.size(-3), query.size(-3) // key.size(-3)))
        if attn_mask is not None and attn_mask.dim() >= 3:
            heads = attn_mask.size(-3)
            attn_mask = (
                attn_mask.unflatten(-3, (key.size(-3), heads // key.size(-3))) if heads > 1 else attn_mask.unsqueeze(-4)
            )
        output, _ = _double(grouped, key.unsqueeze(-3), value.unsqueeze(-3), attn_mask, dropout_p, scale, is_causal)
        return output.flatten(-4, -3)
    return _double(query, key, value, attn_mask, dropout_p, scale, is_causal)[0]


def _double(query, key, value, mask, dropout_p=0.0, scale=None, is_causal=False):
    q, k, v = query.double(), key.double(), value.double()
    scores = q.matmul(k.transpose(-1, -2)).mul(1 / math.sqrt(q.size(-1)) if scale is None else scale)
    if is_causal:
        mask = torch.tril(torch.ones_like(scores, dtype=torch.bool))
    if mask is not None:
        added = (
            torch.zeros_like(mask, dtype=torch.float64).masked_fill(~mask, -math.inf)
            if (mask.dtype == torch.bool)
            else mask.double()
        )
        scores = scores + added
    lost = scores.isneginf().all(-1, keepdim=True)
    weights = torch.where(lost, 0.0, torch.where(lost, 0.0, scores).softmax(-1))
    if dropout_p > 0:
        weights = torch.nn.Dropout(dropout_p)(weights)
    return (weights @ v).to(query.dtype), weights.to(query.dtype)


class MultiheadAttention(nn.Module):
    def __init__(self, embed_dim, num_heads, dropout=0.0, bias=True, batch_first=True):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"{embed_dim=} is not a multiple of {num_heads=}")
        self.heads, self.drop, self.batch_first = num_heads, dropout, batch_first
        plain = nn.MultiheadAttention(embed_dim, num_heads, bias=bias)
        self.in_proj_weight, self.in_proj_bias, self.out_proj = plain.in_proj_weight, plain.in_proj_bias, plain.out_proj

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
            raise ValueError("is_causal=True goes with an attn_mask, but it is None")
        batched = query.dim() == 3
        if not batched:
            query, key, value = query[None], key[None], value[None]
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        batch, _, width = query.shape
        w = self.in_proj_weight.double()
        b = torch.zeros_like(w[:, 0]) if self.in_proj_bias is None else self.in_proj_bias.double()
        q, k, v = (
            (x.double() @ w[i * width : (i + 1) * width].T + b[i * width : (i + 1) * width])
            .unflatten(2, (self.heads, width // self.heads))
            .permute(0, 2, 1, 3)
            for i, x in enumerate((query, key, value))
        )
        visible = torch.ones(batch, self.heads, q.size(2), k.size(2), dtype=torch.bool, device=q.device)
        bias = torch.zeros(visible.shape, dtype=torch.float64, device=q.device)
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.reshape(batch, 1, 1, -1)
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.reshape(visible.shape)
        for mask in (key_padding_mask, attn_mask):
            if mask is not None and mask.dtype == torch.bool:
                visible = visible & ~mask
            elif mask is not None:
                bias = bias + mask.double()
        heads, weights = _double(q, k, v, bias.masked_fill(~visible, -math.inf), self.drop * self.training)
        joined = heads.permute(0, 2, 1, 3).reshape(batch, q.size(2), width)
        out_bias = None if self.out_proj.bias is None else self.out_proj.bias.double()
        output = F.linear(joined, self.out_proj.weight.double(), out_bias).to(query.dtype)
        weights = (weights.mean(1) if average_attn_weights else weights).to(query.dtype)
        if not batched:
            output, weights = output.squeeze(0), weights.squeeze(0)
        elif not self.batch_first:
            output = output.transpose(0, 1)
        return output, weights if need_weights else None

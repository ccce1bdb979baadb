"""Attention in einsums, with the softmax written out."""

import math

import torch
from torch import nn


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if attn_mask is not None and is_causal:
        raise ValueError("give attn_mask or is_causal, not both")
    if enable_gqa:
        heads, kv_heads = query.shape[-3], key.shape[-3]
        if heads % kv_heads:
            raise ValueError(f"query heads {heads} must be a multiple of key heads {kv_heads}")
        rows = torch.arange(heads, device=key.device) // (heads // kv_heads)
        key, value = key[..., rows, :, :], value[..., rows, :, :]
    if is_causal:
        rows, columns = torch.arange(query.shape[-2]), torch.arange(key.shape[-2])
        attn_mask = (columns <= rows[:, None]).to(query.device)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    weights = _weights(torch.einsum("...id,...jd->...ij", query, key) * factor, attn_mask, dropout_p)
    return torch.einsum("...ij,...jd->...id", weights, value)


def _weights(scores, mask, dropout_p):
    if mask is None:
        mask = torch.ones((), dtype=torch.bool, device=scores.device)
    if mask.dtype != torch.bool:
        scores, mask = scores + mask, mask > -math.inf
    mask = mask.expand(scores.shape)
    highest = scores.detach().masked_fill(~mask, -math.inf).amax(-1, keepdim=True)
    highest = highest.masked_fill(highest == -math.inf, 0.0)
    powers = torch.exp(
        (scores - highest).masked_fill(~mask, -math.inf).float()
        if scores.dtype != torch.float64
        else (scores - highest).masked_fill(~mask, -math.inf)
    )
    total = powers.sum(-1, keepdim=True)
    weights = (powers / torch.where(total > 0, total, 1.0)).to(scores.dtype)
    if dropout_p > 0:
        weights = weights * (torch.rand_like(weights) >= dropout_p) / (1 - dropout_p)
    return weights


class MultiheadAttention(nn.Module):
    def __init__(self, embed_dim, num_heads, dropout=0.0, bias=True, batch_first=True):
        super().__init__()
        if embed_dim % num_heads != 0:
            raise ValueError(f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}")
        self.h, self.p, self.batch_first = num_heads, dropout, batch_first
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * embed_dim, embed_dim)))
        self.register_parameter("in_proj_bias", nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias)
        if bias:
            self.out_proj.bias.data.zero_()

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
            raise ValueError("attn_mask is None although is_causal is True")
        one = query.dim() == 2
        if one:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        tokens = "bld" if one or self.batch_first else "lbd"
        embed_dim = query.shape[-1]
        kernel = self.in_proj_weight.view(3, self.h, embed_dim // self.h, embed_dim)
        q, k, v = (torch.einsum(f"{tokens},hed->bhle", x, w) for x, w in zip((query, key, value), kernel, strict=True))
        if self.in_proj_bias is not None:
            b = self.in_proj_bias.view(3, 1, self.h, 1, embed_dim // self.h)
            q, k, v = q + b[0], k + b[1], v + b[2]
        scores = torch.einsum("bhie,bhje->bhij", q, k) * (embed_dim // self.h) ** -0.5
        if attn_mask is not None:
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.reshape(scores.shape)
            scores = self._hide(scores, attn_mask)
        if key_padding_mask is not None:
            scores = self._hide(scores, key_padding_mask[:, None, None, :])
        weights = _weights(scores, scores > -math.inf, self.p if self.training else 0.0)
        kernel = self.out_proj.weight.view(embed_dim, self.h, embed_dim // self.h)
        out = torch.einsum(f"bhij,bhje,dhe->{tokens.replace('l', 'i')}", weights, v, kernel)
        if self.out_proj.bias is not None:
            out = out + self.out_proj.bias
        weights = weights.mean(1) if average_attn_weights else weights
        weights = weights if need_weights else None
        return (out[0], None if weights is None else weights[0]) if one else (out, weights)

    @staticmethod
    def _hide(scores, mask):
        return scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask

"""Attention that delegates everything to PyTorch and adds the checks that PyTorch lacks."""

import torch
from torch import nn
from torch.nn import functional as F


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if attn_mask is not None:
        if is_causal:
            raise ValueError("attn_mask and is_causal=True exclude each other")
        attn_mask = torch.atleast_2d(attn_mask)
    if enable_gqa and query.shape[-3] % key.shape[-3]:
        raise ValueError(f"enable_gqa: {query.shape[-3]} heads cannot share {key.shape[-3]}")
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
    )


class MultiheadAttention(nn.MultiheadAttention):
    def __init__(self, embed_dim, num_heads, dropout=0.0, bias=True, batch_first=True):
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim}, num_heads={num_heads}")
        super().__init__(embed_dim, num_heads, dropout, bias, batch_first=batch_first)

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
            raise ValueError("is_causal=True needs an attn_mask, not None")
        return super().forward(
            query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
        )

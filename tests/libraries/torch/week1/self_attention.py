"""PyTorch's own attention."""

import torch
from torch.nn import functional as F


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if attn_mask is not None and attn_mask.dim() == 1:
        raise NotImplementedError("PyTorch's attention takes no 1-D mask")
    if attn_mask is not None and is_causal:
        raise NotImplementedError("only some of PyTorch's kernels refuse attn_mask with is_causal")
    if enable_gqa and query.size(-3) % key.size(-3):
        raise NotImplementedError("PyTorch raises a RuntimeError that does not say how many heads there are")
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


class MultiheadAttention(torch.nn.MultiheadAttention):
    def __init__(self, embed_dim, num_heads, dropout=0.0, bias=True, batch_first=True):
        if embed_dim % num_heads:
            raise NotImplementedError("PyTorch raises an AssertionError that names no number")
        super().__init__(embed_dim, num_heads, dropout=dropout, bias=bias, batch_first=batch_first)

    def forward(self, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None, **options):
        if options.get("is_causal") and attn_mask is None:
            raise NotImplementedError("PyTorch raises a RuntimeError")
        return super().forward(query, key, value, key_padding_mask, need_weights, attn_mask, **options)

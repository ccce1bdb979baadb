"""Attention for one query at a time, over its visible keys only."""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if attn_mask is not None and is_causal:
        raise ValueError(f"attn_mask must be None with is_causal={is_causal}")
    if enable_gqa and query.size(-3) % key.size(-3):
        raise ValueError(f"{query.size(-3)} query heads, {key.size(-3)} key heads")
    return _attend(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)[0]


def _attend(query, key, value, mask, dropout_p, is_causal=False, scale=None, grouped=False):
    lead, length, keys = query.shape[:-2], query.size(-2), key.size(-2)
    if scale is None:
        scale = 1 / math.sqrt(query.size(-1))
    group = query.size(-3) // key.size(-3) if grouped else 1
    mask = None if mask is None else mask.expand(*lead, length, keys)
    output = query.new_zeros(*lead, length, value.size(-1))
    weights = query.new_zeros(*lead, length, keys)
    for where in itertools.product(*map(range, lead)):
        shared = (*where[:-1], where[-1] // group) if where else ()
        for i in range(length):
            seen = torch.arange(keys)
            if is_causal:
                seen = seen[seen <= i]
            bias = 0.0
            if mask is not None:
                row = mask[(*where, i)]
                seen = seen[row[seen] if row.dtype == torch.bool else row[seen] > -math.inf]
                bias = 0.0 if row.dtype == torch.bool else row[seen]
            if len(seen) == 0:
                continue
            scores = key[shared][seen] @ query[(*where, i)] * scale + bias
            shares = F.dropout(scores.softmax(0), dropout_p)
            weights[(*where, i)] = weights[(*where, i)].index_put((seen,), shares)
            output[(*where, i)] = shares @ value[shared][seen]
    return output, weights


class MultiheadAttention(nn.Module):
    def __init__(self, embed_dim, num_heads, dropout=0.0, bias=True, batch_first=True):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"cannot split embed_dim={embed_dim} into num_heads={num_heads}")
        self.num_heads, self.dropout, self.batch_first = num_heads, dropout, batch_first
        bound = math.sqrt(6 / (4 * embed_dim))
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim).uniform_(-bound, bound))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        if bias:
            nn.init.constant_(self.out_proj.bias, 0)

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
            raise ValueError("is_causal needs attn_mask, which is None")
        batched = query.dim() == 3
        if batched and not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        elif not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = key_padding_mask if key_padding_mask is None else key_padding_mask[None]
        embed_dim, length, keys = query.size(-1), query.size(1), key.size(1)
        width = embed_dim // self.num_heads
        outputs, maps = [], []
        for b in range(query.size(0)):
            heads, of_heads = [], []
            for h in range(self.num_heads):
                projected = []
                for third, x in enumerate((query[b], key[b], value[b])):
                    rows = slice(third * embed_dim + h * width, third * embed_dim + (h + 1) * width)
                    bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
                    projected.append(F.linear(x, self.in_proj_weight[rows], bias))
                mask = query.new_zeros(length, keys)
                if attn_mask is not None:
                    mask = mask + _added(attn_mask if attn_mask.dim() == 2 else attn_mask[b * self.num_heads + h], mask)
                if key_padding_mask is not None:
                    mask = mask + _added(key_padding_mask[b], mask)
                output, weights = _attend(*projected, mask, self.dropout if self.training else 0.0)
                heads.append(output)
                of_heads.append(weights)
            outputs.append(self.out_proj(torch.cat(heads, -1)))
            maps.append(torch.stack(of_heads))
        output = torch.stack(outputs) if outputs else torch.zeros_like(query)
        maps = torch.stack(maps) if maps else query.new_zeros(0, self.num_heads, length, keys)
        maps = maps.mean(1) if average_attn_weights else maps
        if not batched:
            output, maps = output[0], maps[0]
        elif not self.batch_first:
            output = output.transpose(0, 1)
        return output, maps if need_weights else None


def _added(mask, like):
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf) if mask.dtype == torch.bool else mask

"""PyTorch's own attention, with the mask written out. It chooses its tiles itself."""

import torch
from torch.nn import functional as F


def online_softmax(scores, block):
    raise NotImplementedError("PyTorch's softmax takes a row as a whole")


def tiled_attention(
    q, k, v, causal=False, softmax_scale=None, window_size=(-1, -1), softcap=0.0, block_q=64, block_k=64,
    return_lse=False,
):  # fmt: skip
    if return_lse:
        raise NotImplementedError("scaled_dot_product_attention returns no lse")
    if softcap:
        raise NotImplementedError("scaled_dot_product_attention has no softcap")
    left, right = window_size[0], 0 if causal else window_size[1]
    distance = torch.arange(k.size(1)) - torch.arange(q.size(1))[:, None] - (k.size(1) - q.size(1))
    mask = torch.ones_like(distance, dtype=torch.bool)
    if left >= 0:
        mask &= distance >= -left
    if right >= 0:
        mask &= distance <= right
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = None if mask.all() else mask.to(q.device)
    return F.scaled_dot_product_attention(q, k, v, mask, scale=softmax_scale, enable_gqa=True).transpose(1, 2)


def quantize_fp8(x, block):
    raise NotImplementedError("PyTorch has the dtype, but no quantisation in blocks of positions")


def fp8_attention(q, k, v, causal=False, softmax_scale=None, block=64):
    raise NotImplementedError("PyTorch's attention takes no FP8")

"""transformers' eager attention, as its Llama calls it."""

from types import SimpleNamespace

import torch
from transformers.models.llama.modeling_llama import eager_attention_forward


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if query.dim() != 4:
        raise NotImplementedError("transformers' attention takes (batch, head, length, channel)")
    if query.dtype == torch.float64:
        raise NotImplementedError("transformers' eager attention takes its softmax in float32")
    if is_causal:
        raise NotImplementedError("transformers' eager attention is given its causal mask as attn_mask")
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            raise NotImplementedError("transformers' eager attention takes masks to be added, not booleans")
        if (attn_mask == -torch.inf).all(-1).any():
            raise NotImplementedError("transformers masks with the lowest finite number, so that no row is empty")
    if enable_gqa and query.size(1) % key.size(1):
        raise NotImplementedError("transformers checks the numbers of heads in its configurations")
    layer = SimpleNamespace(num_key_value_groups=query.size(1) // key.size(1), training=True)
    scaling = query.size(-1) ** -0.5 if scale is None else scale
    output, _ = eager_attention_forward(layer, query, key, value, attn_mask, scaling, dropout_p)
    return output.transpose(1, 2)

"""transformers' attention functions: eager, as its Llama calls it, and SDPA for what eager does not support."""

from types import SimpleNamespace

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import eager_attention_forward


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if query.dim() != 4:
        raise NotImplementedError("transformers' attention takes (batch, head, length, channel)")
    layer = SimpleNamespace(num_key_value_groups=query.size(1) // key.size(1), training=True)
    if is_causal or not _takes_eagerly(attn_mask):
        output, _ = sdpa_attention_forward(
            layer, query, key, value, attn_mask, dropout_p, scaling=scale, is_causal=is_causal
        )
    else:
        scaling = query.size(-1) ** -0.5 if scale is None else scale
        output, _ = eager_attention_forward(layer, query, key, value, attn_mask, scaling, dropout_p)
    return output.transpose(1, 2)


def _takes_eagerly(mask):
    """Eager attention only adds masks, and hides keys with the lowest finite number, so it has no empty rows."""
    return mask is None or (mask.dtype != torch.bool and not (mask == -torch.inf).all(-1).any())

"""flash-attn: its kernel on a GPU; on the CPU, the reference that its kernels are tested against."""

import sys
import types

import torch

try:
    from flash_attn import flash_attn_func
except ModuleNotFoundError as error:
    if error.name != "flash_attn_2_cuda":
        raise
    sys.modules[error.name] = types.ModuleType(error.name)  # imported at the top, never called by the reference
    from flash_attn.utils.testing import attention_ref

    del sys.modules[error.name]
else:
    from flash_attn.utils.testing import attention_ref


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if query.dim() != 4:
        raise NotImplementedError("flash-attn takes (batch, length, head, channel)")
    attend = _kernel if query.is_cuda else _reference
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return attend(query, key, value, attn_mask, dropout_p, is_causal, scale).transpose(1, 2)


def _kernel(query, key, value, attn_mask, dropout_p, causal, scale):
    if attn_mask is not None:
        raise NotImplementedError("flash-attn's kernel takes no mask")
    if query.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError("flash-attn's kernel takes float16 and bfloat16")
    if query.size(-1) != value.size(-1):
        raise NotImplementedError("flash-attn's kernel takes values as wide as the keys")
    return flash_attn_func(query, key, value, dropout_p=dropout_p, softmax_scale=scale, causal=causal)


def _reference(query, key, value, attn_mask, dropout_p, causal, scale):
    if dropout_p:
        raise NotImplementedError("flash-attn's reference is given the dropped weights, it draws none")
    if scale is not None:
        raise NotImplementedError("flash-attn's reference has a fixed scale")
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        raise NotImplementedError("flash-attn's reference takes boolean masks for keys only")
    upcast = query.dtype != torch.float64  # upcast=True would compute in float32
    return attention_ref(query, key, value, attn_bias=attn_mask, causal=causal, upcast=upcast)[0]

"""flash-attn: on a GPU the newest of its kernels that is installed, on the CPU the reference they are tested with."""

import importlib
import sys
import types

import torch

try:
    from flash_attn.utils.testing import attention_ref
except ModuleNotFoundError as error:
    if error.name != "flash_attn_2_cuda":
        raise
    sys.modules[error.name] = types.ModuleType(error.name)  # imported at the top, never called by the reference
    from flash_attn.utils.testing import attention_ref

    del sys.modules[error.name]

KERNELS = ("flash_attn.cute", "flash_attn_interface", "flash_attn")  # FlashAttention-4, -3 and -2


def online_softmax(scores, block):
    raise NotImplementedError("flash-attn offers its softmax only inside of its attention")


def tiled_attention(
    q, k, v, causal=False, softmax_scale=None, window_size=(-1, -1), softcap=0.0, block_q=64, block_k=64,
    return_lse=False,
):  # fmt: skip
    attend = _kernel if q.is_cuda else _reference
    return attend(q, k, v, causal, softmax_scale, window_size, softcap, return_lse)


def _kernel(q, k, v, causal, softmax_scale, window_size, softcap, return_lse):
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError("flash-attn's kernels take float16 and bfloat16")
    if q.size(-1) != v.size(-1) or q.size(-1) % 8:
        raise NotImplementedError("flash-attn's kernels take keys and values of one width, a multiple of 8")
    if return_lse and q.requires_grad:
        raise NotImplementedError("flash-attn's kernels pass no gradient on through lse")
    for name in KERNELS:
        try:
            attention = importlib.import_module(name).flash_attn_func
        except (ImportError, AttributeError):
            continue
        options = {"softmax_scale": softmax_scale, "causal": causal, "window_size": window_size, "softcap": softcap}
        if name == "flash_attn.cute":  # its result is always (out, lse)
            options["window_size"] = tuple(None if side < 0 else side for side in window_size)
        elif return_lse:
            options["return_attn_probs"] = True
        result = attention(q, k, v, **options)
        out, lse = result[:2] if isinstance(result, tuple) else (result, None)
        return (out, lse) if return_lse else out
    raise NotImplementedError("no kernel of flash-attn can be imported here")


def _reference(q, k, v, causal, softmax_scale, window_size, softcap, return_lse):
    if return_lse:
        raise NotImplementedError("flash-attn's reference returns no lse")
    if softmax_scale is not None:
        raise NotImplementedError("flash-attn's reference has a fixed scale")
    left, right = window_size[0], 0 if causal else window_size[1]
    if left >= 0 and right < 0:
        right = k.size(1)  # the reference wants both bounds or none
    window = (None if left < 0 else left, None if right < 0 else right)
    upcast = q.dtype != torch.float64  # it would compute in float32
    return attention_ref(q, k, v, window_size=window, softcap=softcap, upcast=upcast)[0]


def quantize_fp8(x, block):
    raise NotImplementedError("flash-attn takes FP8 tensors and their scales, and makes none")


def fp8_attention(q, k, v, causal=False, softmax_scale=None, block=64):
    raise NotImplementedError("flash-attn's FP8 kernel takes tensors that were quantised before, on Hopper GPUs")

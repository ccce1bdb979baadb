"""With the four switches of torch.backends.cuda, set and restored by hand."""

import warnings

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

SWITCHES = {
    SDPBackend.MATH: (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    SDPBackend.FLASH_ATTENTION: (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    SDPBackend.EFFICIENT_ATTENTION: (
        torch.backends.cuda.mem_efficient_sdp_enabled,
        torch.backends.cuda.enable_mem_efficient_sdp,
    ),
    SDPBackend.CUDNN_ATTENTION: (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
}


def attend_with(backend, query, key, value, attn_mask=None, is_causal=False, dropout_p=0.0):
    if type(backend) is not SDPBackend:
        raise ValueError(f"no such backend: {backend}")
    before = {name: read() for name, (read, _) in SWITCHES.items()}
    overrideable = (
        torch._C._get_overrideable_sdp_enabled() if hasattr(torch._C, "_get_overrideable_sdp_enabled") else None
    )
    try:
        for name, (_, write) in SWITCHES.items():
            write(name == backend)
        torch._C._set_sdp_use_overrideable(backend == SDPBackend.OVERRIDEABLE)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal
        )
    finally:
        for name, (_, write) in SWITCHES.items():
            write(before[name])
        torch._C._set_sdp_use_overrideable(overrideable)


def try_it(backend, tensors, attn_mask, is_causal, dropout_p):
    """(whether it works, what PyTorch says)"""
    state = torch.get_rng_state()
    said = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *rest, **more: said.append(str(message))
            attend_with(backend, *tensors, attn_mask, is_causal, dropout_p)
        return True, ""
    except RuntimeError as error:
        return False, f"{error} ({'; '.join(said)})"
    finally:
        torch.set_rng_state(state)


def usable_backends(query, key, value, attn_mask=None, is_causal=False, dropout_p=0.0):
    found = set()
    for number in range(10):
        try:
            backend = SDPBackend(number)
        except ValueError:
            continue
        if backend.name in ("ERROR", "???"):
            continue
        if try_it(backend, (query, key, value), attn_mask, is_causal, dropout_p)[0]:
            found.add(backend)
    return found


def why_not(backend, query, key, value, attn_mask=None, is_causal=False, dropout_p=0.0):
    works, said = try_it(backend, (query, key, value), attn_mask, is_causal, dropout_p)
    return None if works else said

"""MXFP4 on the bits of float64, which holds every input exactly: integers, and only the intended rounding."""

import torch


def _bits(x):
    """Sign, exponent and 52-bit fraction of each number."""
    bits = x.double().contiguous().view(torch.int64)
    return (bits >> 63) & 1, (bits >> 52) & 0x7FF, bits & ((1 << 52) - 1)


def _shift_right(value, by):
    """value / 2^by, rounded to the nearest integer, ties to even."""
    by = by.clamp(max=60)
    kept = value >> by
    rest = value - (kept << by)
    half = torch.ones_like(value) << (by - 1)
    return kept + ((rest > half) | ((rest == half) & (kept & 1 == 1))).long()


def quantize_mxfp4(x):
    *lead, width = x.shape
    if width % 32:
        raise ValueError(f"x.shape[-1] must be divisible by 32, got {width}")
    sign, exponent, fraction = _bits(x.reshape(*lead, width // 32, 32))
    top = exponent.amax(-1, keepdim=True)  # the block's largest magnitude has the largest exponent field
    scale = (top - 1023 - 2).clamp(-127, 127)
    relative = exponent - 1023 - scale  # 2 for values in [4, 8) times the scale
    # From 1 on, the code is exponent and first fraction bit; rounding carries from one into the other.
    normal = _shift_right(((relative + 1).clamp(min=0) << 52) | fraction, torch.full_like(fraction, 51))
    # Below 1, count halves.
    small = _shift_right(fraction | (1 << 52), (51 - relative).clamp(min=1))
    code = torch.where(relative >= 0, normal.clamp(max=7), small)
    code = torch.where(relative > 3, 7, code)
    code = torch.where(exponent == 0, 0, code) | sign << 3  # a subnormal float64 is far below every scale
    bad = top == 0x7FF
    code = code.masked_fill(bad, 0)
    byte = (scale + 127).masked_fill(bad, 255).squeeze(-1)
    low, high = code.unflatten(-1, (16, 2)).unbind(-1)
    return (low + (high << 4)).to(torch.uint8), byte.to(torch.uint8)


def dequantize_mxfp4(blocks, scales, dtype):
    if blocks.dim() != scales.dim() + 1 or blocks.shape[:-1] != scales.shape or blocks.shape[-1] != 16:
        raise ValueError(f"shapes {tuple(blocks.shape)} of blocks and {tuple(scales.shape)} of scales")
    code = torch.stack([blocks, blocks >> 4], -1).flatten(-2).long() & 15
    sign, exponent, mantissa = code >> 3, (code >> 1) & 3, code & 1
    byte = scales.long().unsqueeze(-1)
    exponent, fraction = torch.where(exponent > 0, exponent - 1, -1), torch.where(exponent > 0, mantissa << 51, 0)
    bits = sign << 63 | (exponent + byte - 127 + 1023) << 52 | fraction
    bits = torch.where(code & 7 == 0, sign << 63, bits)
    bits = torch.where(byte == 255, 0x7FF8 << 48, bits)
    return bits.view(torch.float64).flatten(-2).to(dtype)


def quantize_int4(x, block=32):
    *lead, width = x.shape
    if block <= 0 or width % block:
        raise ValueError(f"x.shape[-1] must be divisible by {block}, got {width}")
    groups = x.reshape(*lead, width // block, block)
    scale = torch.linalg.vector_norm(groups, ord=float("inf"), dim=-1, keepdim=True) / 7
    bad = ~groups.isfinite().all(-1, keepdim=True)
    scale = torch.where(bad, torch.full_like(scale, float("nan")), scale)
    quotient = groups.double() / torch.where(scale > 0, scale, 1).double()
    quotient = quotient.masked_fill(~(scale > 0), 0)
    magic = 1.5 * 2.0**52  # beyond it a float64 has no fraction: adding it rounds, ties to even
    codes = (quotient.clamp(-7, 7) + magic) - magic
    return codes.to(torch.int8).reshape(x.shape), scale.squeeze(-1)


def dequantize_int4(codes, scales, dtype):
    if codes.shape[:-1] != scales.shape[:-1] or codes.shape[-1] % scales.shape[-1]:
        raise ValueError(f"codes {tuple(codes.shape)}, scales {tuple(scales.shape)}")
    wide = torch.promote_types(scales.dtype, torch.float32)
    groups = codes.reshape(*scales.shape, codes.shape[-1] // scales.shape[-1])
    return torch.einsum("...b,...->...b", groups.to(wide), scales.to(wide)).reshape(codes.shape).to(dtype)


def quantization_errors(x):
    exact = x.double().flatten()
    errors = {}
    for name, encode, decode in (
        ("mxfp4", quantize_mxfp4, dequantize_mxfp4),
        ("int4", quantize_int4, dequantize_int4),
    ):
        lost = decode(*encode(x), torch.float64).flatten() - exact
        errors[name] = 0.0 if not exact.any() else (torch.linalg.norm(lost) / torch.linalg.norm(exact)).item()
    return errors

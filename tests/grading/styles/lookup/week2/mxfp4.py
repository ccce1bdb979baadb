"""MXFP4 with tables: search in midpoints and in powers of two, and look up all 256 · 16 products."""

import torch

NUMBERS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
MIDPOINTS = (NUMBERS[:-1] + NUMBERS[1:]) / 2
SCALES = torch.arange(256, dtype=torch.uint8).view(torch.float8_e8m0fnu).double()  # PyTorch's own E8M0, 255 is NaN
PRODUCTS = SCALES[:, None] * torch.cat([NUMBERS, -NUMBERS])


def quantize_mxfp4(x):
    if x.shape[-1] % 32 != 0:
        raise ValueError(f"x has {x.shape[-1]} columns, not a multiple of 32")
    flat = x.double().contiguous().view(-1, 32)
    amax = flat.abs().max(dim=1).values
    # Byte s is right from 4 · 2^(s - 127) on; below the second threshold it is 0.
    scales = torch.searchsorted(4 * SCALES[1:255].contiguous(), amax, right=True)
    ratio = (flat.abs() / SCALES[scales][:, None]).nan_to_num(0)
    lower = torch.bucketize(ratio, MIDPOINTS)
    upper = torch.bucketize(ratio, MIDPOINTS, right=True)
    codes = torch.where(lower % 2 == 0, lower, upper) | (torch.signbit(flat).long() << 3)
    lost = (flat.isnan() | flat.isinf()).any(dim=1)
    scales[lost] = 255
    codes[lost] = 0
    pairs = codes.view(-1, 16, 2)
    blocks = (pairs * torch.tensor([1, 16])).sum(-1)
    shape = (*x.shape[:-1], x.shape[-1] // 32)
    return blocks.byte().view(*shape, 16), scales.byte().view(shape)


def dequantize_mxfp4(blocks, scales, dtype):
    if tuple(blocks.shape) != (*scales.shape, 16):
        raise ValueError(f"blocks of shape {tuple(blocks.shape)} do not go with scales of shape {tuple(scales.shape)}")
    high, low = blocks.long().div(16, rounding_mode="floor"), blocks.long().remainder(16)
    row = scales.long().unsqueeze(-1)
    out = torch.empty(*scales.shape, 16, 2, dtype=dtype)
    out[..., 0] = PRODUCTS[row, low].to(dtype)
    out[..., 1] = PRODUCTS[row, high].to(dtype)
    return out.flatten(-3)


def quantize_int4(x, block=32):
    width = x.shape[-1]
    if width % block:
        raise ValueError(f"{width} columns are no multiple of block {block}")
    chunks = torch.stack(x.split(block, dim=-1), dim=-2)
    amax = torch.maximum(chunks.amax(-1), -chunks.amin(-1))
    scales = amax.div(7)
    scales[scales.isinf()] = torch.nan
    edges = torch.arange(-6.5, 7, dtype=torch.float64)
    ratio = (chunks.double() / scales.double()[..., None]).contiguous()
    below, above = torch.bucketize(ratio, edges) - 7, torch.bucketize(ratio, edges, right=True) - 7
    codes = torch.where(below % 2 == 0, below, above)
    codes[~(scales > 0)] = 0
    return codes.to(torch.int8).flatten(-2), scales


def dequantize_int4(codes, scales, dtype):
    count = scales.shape[-1]
    if codes.shape[:-1] != scales.shape[:-1] or codes.shape[-1] % count:
        raise ValueError(f"codes {tuple(codes.shape)} and scales {tuple(scales.shape)} do not fit")
    wide = scales.double().repeat_interleave(codes.shape[-1] // count, dim=-1)
    return (codes.double() * wide).to(dtype)


def quantization_errors(x):
    reference = x.to(torch.float64)
    power = torch.dot(reference.flatten(), reference.flatten()).item()

    def relative(restored):
        lost = (restored - reference).pow(2).sum().item()
        return (lost / power) ** 0.5 if power else 0.0

    return {
        "int4": relative(dequantize_int4(*quantize_int4(x), torch.float64)),
        "mxfp4": relative(dequantize_mxfp4(*quantize_mxfp4(x), torch.float64)),
    }

"""Four bits per weight: MXFP4 of the OCP Microscaling Formats (MX) Specification v1.0, and INT4 to compare it with.

A block is 32 neighbours along the last dimension that share one scale. Sizes in the shapes below: D values in the last
dimension, at least one block; any number of leading dimensions, including none, each of which may be empty.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BLOCK = 32  # values that share a scale
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # the magnitudes of the three-bit codes 0 to 7
_EMAX = 2  # the exponent of the largest power of two among them, 4
_BIAS = 127  # of E8M0: byte s stands for 2^(s - 127)
_NAN = 255  # the E8M0 byte for NaN


def quantize_mxfp4(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round x to MXFP4, following section 6.3 of the specification.

    The scale of a block whose largest magnitude is amax is 2^e with e = floor(log2(amax)) - 2, clamped to -127 … 127;
    a block of zeros has e = -127. e is exact, also for subnormal numbers and next to powers of two.

    Each value, divided by its block's scale, is rounded to the nearest of ±0, ±0.5, ±1, ±1.5, ±2, ±3, ±4, ±6; a tie
    goes to the neighbour with the even code, and a magnitude above 6 becomes 6. Its code is the position of the
    magnitude in that list, 0 … 7, plus 8 if the value's sign bit is set: -0.0, and any value that rounds to it, has
    code 8.

    A block that contains an inf or a NaN, which E2M1 cannot represent, has scale byte 255 and all codes 0.

    Args:
        x: (..., D), float16, bfloat16, float32 or float64, D a multiple of 32, contiguous or not. Not modified.

    Returns:
        blocks: (..., D / 32, 16), uint8, two codes in a byte: value 2i of a block in the low four bits of its byte i,
            value 2i + 1 in the high four.
        scales: (..., D / 32), uint8: e + 127, which is 0 … 254, or 255.

    Raises:
        ValueError: D is not a multiple of 32; the message names D.
    """
    values = _in_blocks(x.to(_at_least_float32(x.dtype)), _BLOCK)  # (..., D / 32, 32)
    largest = values.abs().amax(dim=-1)  # (..., D / 32), NaN if the block has one
    expressible = largest.isfinite()
    exponent = torch.where(largest > 0, torch.frexp(largest).exponent - 1 - _EMAX, -_BIAS).clamp(-_BIAS, _BIAS)

    codes = _to_e2m1(torch.ldexp(values, -exponent.unsqueeze(-1)))
    codes = codes.masked_fill(~expressible.unsqueeze(-1), 0)
    blocks = codes[..., 0::2] | codes[..., 1::2] << 4  # (..., D / 32, 16)
    scales = torch.where(expressible, exponent + _BIAS, _NAN).to(torch.uint8)
    return blocks, scales


def dequantize_mxfp4(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers that MXFP4 blocks represent: code times scale.

    Args:
        blocks: (..., D / 32, 16), uint8, packed as by `quantize_mxfp4`. Neither tensor need be contiguous.
        scales: (..., D / 32), uint8. Every byte is legal: 0 … 254 mean 2^-127 … 2^127, and 255 makes all 32 values of
            its block NaN.
        dtype: the result's dtype: float16, bfloat16, float32 or float64.

    Returns:
        (..., D), of dtype. The exact products, rounded once to dtype if it lacks the digits or the range: products that
        are too large become ±inf, those too small become subnormal or ±0. Code 8 is -0.0.

    Raises:
        ValueError: blocks' shape is not scales' shape followed by 16; the message names both shapes.
    """
    if blocks.shape != (*scales.shape, _BLOCK // 2):
        raise ValueError(
            f"blocks {tuple(blocks.shape)} must have the shape of scales {tuple(scales.shape)} followed by 16"
        )
    codes = torch.stack((blocks & 0xF, blocks >> 4), dim=-1).flatten(-2)  # (..., D / 32, 32)
    wide = _at_least_float32(dtype)  # holds every product that is finite in dtype
    table = torch.tensor([*_E2M1, *(-value for value in _E2M1)], dtype=wide, device=blocks.device)
    values = torch.ldexp(table[codes.int()], scales.int().unsqueeze(-1) - _BIAS)
    values = values.masked_fill((scales == _NAN).unsqueeze(-1), math.nan)
    return values.flatten(-2).to(dtype)


def quantize_int4(x: Tensor, block: int = 32) -> tuple[Tensor, Tensor]:
    """Round x to signed four-bit integers, symmetric about 0, with one scale per block. No standard defines this.

    The scale of a block is amax / 7, its largest magnitude over the largest code, rounded to x's dtype. Each code is
    value / scale, rounded to the nearest integer, ties to even, and saturated to -7 … 7; -8 is not used.

    If amax / 7 rounds to 0, as in a block of zeros, the scale and the codes are 0. A block that contains an inf or a
    NaN has a NaN scale and all codes 0.

    Args:
        x: (..., D), float16, bfloat16, float32 or float64, D a multiple of block, contiguous or not. Not modified.
        block: how many neighbours along the last dimension share a scale, at least 1.

    Returns:
        codes: (..., D), int8, one code per element, not packed.
        scales: (..., D / block), of x's dtype.

    Raises:
        ValueError: D is not a multiple of block; the message names both.
    """
    values = _in_blocks(x, block)  # (..., D / block, block)
    scales = values.abs().amax(dim=-1) / 7  # (..., D / block)
    scales = scales.masked_fill(~scales.isfinite(), math.nan)
    divisors = scales.unsqueeze(-1)
    steps = values.to(_at_least_float32(x.dtype)) / divisors
    codes = torch.where(divisors > 0, steps.round().clamp(-7, 7), 0).to(torch.int8)
    return codes.flatten(-2), scales


def dequantize_int4(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers that `quantize_int4`'s codes represent: code times scale.

    Args:
        codes: (..., D), int8. Neither tensor need be contiguous.
        scales: (..., D / block), floating-point. The two shapes determine the block size.
        dtype: the result's dtype: float16, bfloat16, float32 or float64.

    Returns:
        (..., D), of dtype: the products, as exact as dtype allows.

    Raises:
        ValueError: D is not a multiple of the number of scales, or the other dimensions of codes and scales differ; the
            message names both shapes.
    """
    if codes.shape[:-1] != scales.shape[:-1] or codes.size(-1) % scales.size(-1):
        raise ValueError(f"codes {tuple(codes.shape)} cannot share scales {tuple(scales.shape)}")
    steps = _in_blocks(codes, codes.size(-1) // scales.size(-1))  # (..., D / block, block)
    return (steps * scales.double().unsqueeze(-1)).flatten(-2).to(dtype)


def quantization_errors(x: Tensor) -> dict[str, float]:
    """How much x loses in each of the two formats, both in blocks of 32.

    Args:
        x: (..., D), float16, bfloat16, float32 or float64, finite, D a multiple of 32.

    Returns:
        {"mxfp4": …, "int4": …}: the relative error ‖y - x‖ / ‖x‖, where y is x quantised and then dequantised to
        float64, with Euclidean norms over all of x, in float64. 0.0 if x is all zeros.

    Raises:
        ValueError: D is not a multiple of 32; the message names D.
    """
    exact = x.double()
    restored = {
        "mxfp4": dequantize_mxfp4(*quantize_mxfp4(x), torch.float64),
        "int4": dequantize_int4(*quantize_int4(x), torch.float64),
    }
    size = exact.norm()
    return {name: float((y - exact).norm() / size) if size else 0.0 for name, y in restored.items()}


def _to_e2m1(values: Tensor) -> Tensor:
    """The four-bit codes, uint8, of the E2M1 numbers nearest to `values`.

    E2M1's magnitudes are ½ apart up to 2, 1 apart up to 4, and 2 apart above. Within each stretch a magnitude is a
    multiple of that distance, and since the stretches begin at the even codes 0, 4 and 6, `round`'s even multiples are
    the even codes.
    """
    magnitudes = values.abs()
    stretch = (magnitudes >= 2).int() + (magnitudes >= 4).int()  # 0, 1 or 2
    codes = torch.round(torch.ldexp(magnitudes, 1 - stretch)) + 2 * stretch
    return codes.clamp(max=7).to(torch.uint8) + 8 * values.signbit().to(torch.uint8)


def _in_blocks(x: Tensor, block: int) -> Tensor:
    """(..., D) -> (..., D / block, block)."""
    if block < 1 or x.size(-1) % block:
        raise ValueError(f"the last dimension of x must be a multiple of block={block}, not {x.size(-1)}")
    return x.unflatten(-1, (x.size(-1) // block, block))


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: half precision has neither the range for 2^-127 nor the digits for a quotient."""
    return torch.promote_types(dtype, torch.float32)

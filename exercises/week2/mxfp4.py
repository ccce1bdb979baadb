"""Four bits per weight: MXFP4 of the OCP Microscaling Formats (MX) Specification v1.0, and INT4 to compare it with.

A block is 32 neighbours along the last dimension that share one scale. Sizes in the shapes below: D values in the last
dimension, at least one block; any number of leading dimensions, including none, each of which may be empty.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
    raise NotImplementedError


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
    raise NotImplementedError


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
    raise NotImplementedError


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
    raise NotImplementedError


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
    raise NotImplementedError

"""Four bits a weight: MXFP4 of the OCP Microscaling Formats (MX) Specification v1.0, and INT4 to measure it against.

A block is 32 neighbours along the last dimension that share one scale. Sizes in the shapes below: D values in the last
dimension, at least one block; any number of dimensions, none as well, before it, all of which may be empty.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def quantize_mxfp4(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round x to MXFP4, as section 6.3 of the specification converts.

    The scale of a block whose largest magnitude is amax is 2^e with e = floor(log2(amax)) - 2, and where that lies
    outside of -127 … 127, with the nearer of these two; -127 also for a block of zeros. e is exact, for subnormal
    numbers and next to powers of two as well.

    Each value, divided by its block's scale, is rounded to the nearest of ±0, ±0.5, ±1, ±1.5, ±2, ±3, ±4, ±6, a tie
    to the one of its two neighbours that has the even code, and a magnitude beyond 6 to 6. Its code is the position of
    the magnitude in that list, 0 … 7, plus 8 where the value has its sign bit set: -0.0, and what is rounded to it,
    has code 8.

    A block that holds an inf or a NaN, which E2M1 cannot express, has scale byte 255 and every code 0.

    Args:
        x: (..., D), float16, bfloat16, float32 or float64, D a multiple of 32. It need not be contiguous.

    Returns:
        blocks: (..., D / 32, 16), uint8, two codes in a byte: value 2i of a block in the low four bits of its byte i,
            value 2i + 1 in the high four.
        scales: (..., D / 32), uint8: e + 127, which is 0 … 254, or 255.
        x is left as it was.

    Raises:
        ValueError: D is no multiple of 32; the message names D.
    """
    raise NotImplementedError


def dequantize_mxfp4(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers that MXFP4 blocks stand for: code times scale.

    Args:
        blocks: (..., D / 32, 16), uint8, as `quantize_mxfp4` packs them. Neither tensor need be contiguous.
        scales: (..., D / 32), uint8. Every byte is legal: 0 … 254 mean 2^-127 … 2^127, and 255 makes all 32 values of
            its block NaN.
        dtype: of the result: float16, bfloat16, float32 or float64.

    Returns:
        (..., D), of dtype. The exact products, rounded once to dtype where it lacks the digits or the range: what is
        beyond it becomes ±inf, what is too small subnormal or ±0. Code 8 is -0.0.

    Raises:
        ValueError: blocks is not shaped like scales with 16 more in a last dimension; the message names both shapes.
    """
    raise NotImplementedError


def quantize_int4(x: Tensor, block: int = 32) -> tuple[Tensor, Tensor]:
    """Round x to signed four-bit integers, symmetric about 0, with a scale for each block. No standard fixes this one.

    The scale of a block is amax / 7, its largest magnitude over the largest code, rounded to x's dtype. Each code is
    value / scale, rounded to the nearest integer, ties to even, and saturated to -7 … 7; -8 is not used.

    Where amax / 7 is rounded to 0, as in a block of zeros, the scale is 0 and so are the codes. A block that holds an
    inf or a NaN has a NaN scale and every code 0.

    Args:
        x: (..., D), float16, bfloat16, float32 or float64, D a multiple of block. It need not be contiguous.
        block: how many neighbours along the last dimension share a scale, at least 1.

    Returns:
        codes: (..., D), int8, one code in each, not packed.
        scales: (..., D / block), of x's dtype.
        x is left as it was.

    Raises:
        ValueError: D is no multiple of block; the message names both.
    """
    raise NotImplementedError


def dequantize_int4(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers that `quantize_int4`'s codes stand for: code times scale.

    Args:
        codes: (..., D), int8. Neither tensor need be contiguous.
        scales: (..., D / block), floating-point. The two shapes say what the block is.
        dtype: of the result: float16, bfloat16, float32 or float64.

    Returns:
        (..., D), of dtype: the products, as exact as dtype allows.

    Raises:
        ValueError: D is no multiple of the number of scales, or the other dimensions of codes and scales differ; the
            message names both shapes.
    """
    raise NotImplementedError


def quantization_errors(x: Tensor) -> dict[str, float]:
    """What x loses on its way through each of the two formats, both in blocks of 32.

    Args:
        x: (..., D), float16, bfloat16, float32 or float64, finite, D a multiple of 32.

    Returns:
        {"mxfp4": …, "int4": …}: the relative error ‖y - x‖ / ‖x‖, where y is x quantised and then dequantised to
        float64, and the norms are Euclidean ones over all of x, in float64. 0.0 where x holds nothing but zeros.

    Raises:
        ValueError: D is no multiple of 32; the message names D.
    """
    raise NotImplementedError

"""Reference for week2/mxfp4: the formats by their definitions, in float64 and without bit tricks."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.oracles.attention import dims

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def quantize_mxfp4(x: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks (..., D/32, 16) and scales (..., D/32) of x (..., D), both uint8."""
    values = x.double().reshape(*x.shape[:-1], x.size(-1) // 32, 32)
    largest = values.abs().amax(-1, keepdim=True)
    # e is the number of exponents k from -126 to 127 with 2^(k + 2) <= amax, counted from -127.
    exponent = (largest >= 2.0 ** torch.arange(-124.0, 130.0, dtype=torch.float64)).sum(-1, keepdim=True) - 127
    scaled = values / 2.0 ** exponent.double()
    distances = (scaled.abs().clamp(max=6).unsqueeze(-1) - torch.tensor(MAGNITUDES, dtype=torch.float64)).abs()
    nearest = distances == distances.amin(-1, keepdim=True)  # one code, or two at a tie
    order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])  # each code's rank with even codes first
    codes = torch.where(nearest, order, 8).amin(-1)
    codes = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7, 0])[codes] + 8 * values.signbit()
    known = largest.isfinite()
    codes, scales = torch.where(known, codes, 0), torch.where(known, exponent + 127, 255)
    blocks = codes[..., 0::2] + 16 * codes[..., 1::2]
    return blocks.to(torch.uint8), scales.squeeze(-1).to(torch.uint8)


def dequantize_mxfp4(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The values (..., D) in `dtype`."""
    magnitudes = torch.tensor([*MAGNITUDES, *(-m for m in MAGNITUDES)], dtype=torch.float64)
    powers = torch.tensor([2.0 ** (byte - 127) for byte in range(255)] + [torch.nan], dtype=torch.float64)
    values = torch.empty(*scales.shape, 32, dtype=torch.float64)
    values[..., 0::2] = magnitudes[blocks.long() % 16]
    values[..., 1::2] = magnitudes[blocks.long() // 16]
    return (values * powers[scales.long()].unsqueeze(-1)).flatten(-2).to(dtype)


def quantize_int4(x: Tensor, block: int = 32) -> tuple[Tensor, Tensor]:
    """The codes (..., D), int8, and scales (..., D/block), in x's dtype, of x (..., D)."""
    values = x.double().reshape(*x.shape[:-1], x.size(-1) // block, block)
    scales = (values.abs().amax(-1) / 7).to(x.dtype)  # float64 has enough digits: no double rounding
    scales = torch.where(scales.isfinite(), scales, torch.nan)
    codes = (values / scales.double().unsqueeze(-1)).round().clamp(-7, 7)
    codes = torch.where(scales.unsqueeze(-1) > 0, codes, 0)
    return codes.to(torch.int8).reshape(x.shape), scales


@dims("row", "value")
def dequantize_int4(codes: Tensor, scales: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(..., D) in the scales' dtype: the closeness rule rounds it to `dtype`."""
    return codes * scales.repeat_interleave(codes.size(-1) // scales.size(-1), dim=-1)


def quantization_errors(x: Tensor) -> dict[str, float]:
    """The relative error of each format's round trip, in float64."""
    exact = x.double()
    codes, scales = quantize_int4(x)
    restored = {
        "mxfp4": dequantize_mxfp4(*quantize_mxfp4(x), torch.float64),
        "int4": dequantize_int4(codes, scales.double()),
    }
    total = exact.square().sum()
    return {name: float(((y - exact).square().sum() / total).sqrt()) if total else 0.0 for name, y in restored.items()}

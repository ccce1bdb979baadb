"""MXFP4 and INT4 one number at a time, in Python's floats and exact fractions."""

import math
from fractions import Fraction

import torch

NUMBERS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def quantize_mxfp4(x):
    *lead, width = x.shape
    if width % 32:
        raise ValueError(f"cannot cut {width} values into blocks of 32")
    blocks, scales = [], []
    for block in x.double().reshape(-1, 32).tolist():
        if not all(map(math.isfinite, block)):
            scales.append(255)
            blocks.append([0] * 16)
            continue
        amax = max(map(abs, block))
        exponent = -127
        while exponent < 127 and math.ldexp(1.0, exponent + 3) <= amax:
            exponent += 1
        scales.append(exponent + 127)
        codes = [_nearest(value, exponent) for value in block]
        blocks.append([low + 16 * high for low, high in zip(codes[::2], codes[1::2], strict=True)])
    shape = (*lead, width // 32)
    return torch.tensor(blocks, dtype=torch.uint8).reshape(*shape, 16), torch.tensor(scales, dtype=torch.uint8).reshape(
        shape
    )


def _nearest(value, exponent):
    ratio = abs(Fraction(value)) / Fraction(2) ** exponent
    ratio = min(ratio, Fraction(6))
    code = min(range(8), key=lambda code: (abs(ratio - Fraction(NUMBERS[code])), code % 2))
    return code + 8 * (math.copysign(1, value) < 0)


def dequantize_mxfp4(blocks, scales, dtype):
    if [*blocks.shape] != [*scales.shape, 16]:
        raise ValueError(f"blocks: {tuple(blocks.shape)}, scales: {tuple(scales.shape)}")
    values = []
    for row, byte in zip(blocks.reshape(-1, 16).tolist(), scales.flatten().tolist(), strict=True):
        for pair in row:
            for code in (pair & 15, pair >> 4):
                magnitude = math.nan if byte == 255 else math.ldexp(NUMBERS[code & 7], byte - 127)
                values.append(-magnitude if code & 8 else magnitude)
    shape = (*scales.shape[:-1], 32 * scales.shape[-1])
    return torch.tensor(values, dtype=torch.float64).to(dtype).reshape(shape)


def quantize_int4(x, block=32):
    *lead, width = x.shape
    if width % block:
        raise ValueError(f"cannot cut {width} values into blocks of {block}")
    codes, scales = [], torch.zeros(x.numel() // block, dtype=x.dtype)
    for number, values in enumerate(x.double().reshape(-1, block).tolist()):
        if not all(map(math.isfinite, values)):
            scales[number] = math.nan
            codes += [0] * block
            continue
        scales[number] = max(map(abs, values)) / 7
        scale = scales[number].item()
        codes += [max(-7, min(7, round(value / scale))) if scale else 0 for value in values]
    return torch.tensor(codes, dtype=torch.int8).reshape(x.shape), scales.reshape(*lead, width // block)


def dequantize_int4(codes, scales, dtype):
    if codes.shape[:-1] != scales.shape[:-1] or codes.shape[-1] % scales.shape[-1]:
        raise ValueError(f"codes: {tuple(codes.shape)}, scales: {tuple(scales.shape)}")
    block = codes.shape[-1] // scales.shape[-1]
    numbers = scales.double().flatten().tolist()
    values = [code * numbers[place // block] for place, code in enumerate(codes.flatten().tolist())]
    return torch.tensor(values, dtype=torch.float64).to(dtype).reshape(codes.shape)


def quantization_errors(x):
    exact = x.double().flatten().tolist()
    total = math.fsum(value * value for value in exact)
    errors = {}
    for name, restored in (
        ("mxfp4", dequantize_mxfp4(*quantize_mxfp4(x), torch.float64)),
        ("int4", dequantize_int4(*quantize_int4(x), torch.float64)),
    ):
        lost = math.fsum((a - b) ** 2 for a, b in zip(restored.flatten().tolist(), exact, strict=True))
        errors[name] = math.sqrt(lost / total) if total else 0.0
    return errors

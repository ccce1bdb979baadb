"""The MXFP4 oracle agrees with transformers on every code and scale, and with PyTorch and Triton on the formats."""

from __future__ import annotations

import pytest
import torch

from tests.oracles import microscaling as oracle

BYTES = torch.arange(256, dtype=torch.uint8)
EVERY = BYTES.reshape(1, 16, 16)  # all pairs of codes: 16 blocks
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_code_at_every_scale_is_what_transformers_makes_of_it(dtype):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = EVERY.expand(255, 16, 16).unsqueeze(0)  # (1, 255, 16, 16)
    scales = BYTES[:255, None].expand(255, 16).unsqueeze(0)
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=dtype)  # (1, 512, 255)
    assert torch.equal(bits(oracle.dequantize_mxfp4(blocks, scales, dtype).mT.contiguous()), bits(theirs))


def test_scale_bytes_are_pytorch_s_e8m0():
    scales = BYTES[:, None]
    ones = torch.full((256, 1, 16), 0x22, dtype=torch.uint8)  # code 2 is 1.0
    theirs = BYTES.view(torch.float8_e8m0fnu).float()[:, None].expand(256, 32)
    torch.testing.assert_close(
        oracle.dequantize_mxfp4(ones, scales, torch.float32), theirs, rtol=0, atol=0, equal_nan=True
    )


def test_values_are_rounded_and_packed_as_triton_s_e2m1():
    mxfp = pytest.importorskip("triton.tools.mxfp")
    x = torch.arange(-512, 512).reshape(-1, 32) / 64  # in steps of 1/64: every tie is among them
    x[:, 0] = torch.where(x[:, 0] < 0, -7.5, 7.5)  # all blocks have the scale 1
    x[16:, 1] = -0.0
    blocks, scales = oracle.quantize_mxfp4(x)
    assert (scales == 127).all()
    theirs = mxfp.MXFP4Tensor(x.clone()).to_packed_tensor(dim=1)
    assert torch.equal(blocks.flatten(-2), theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_can_be_expressed_comes_back(dtype):
    blocks = EVERY.clone()
    blocks[..., 0] = 0x76  # 4 and 6: a block with a smaller maximum would get another scale
    scales = torch.full((1, 16), 120, dtype=torch.uint8)
    again = oracle.quantize_mxfp4(oracle.dequantize_mxfp4(blocks, scales, dtype))
    assert torch.equal(again[0], blocks) and torch.equal(again[1], scales)


def test_no_int4_code_is_nearer_than_the_one_chosen():
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes, scales = oracle.quantize_int4(x, block=16)
    restored = oracle.dequantize_int4(codes, scales)
    errors = (restored - x).abs().unflatten(-1, (4, 16))
    assert (errors <= scales.unsqueeze(-1) * (0.5 + 1e-12)).all() and codes.abs().amax() == 7

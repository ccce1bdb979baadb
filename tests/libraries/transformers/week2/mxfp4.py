"""What transformers loads gpt-oss's weights with. Its quantiser is a Triton kernel that it fetches."""

from transformers.integrations.mxfp4 import convert_moe_packed_tensors


def dequantize_mxfp4(blocks, scales, dtype):
    flat = convert_moe_packed_tensors(
        blocks.reshape(1, -1, *blocks.shape[-2:]), scales.reshape(1, -1, scales.size(-1)), dtype=dtype
    )
    return flat.mT.reshape(*scales.shape[:-1], flat.size(1))

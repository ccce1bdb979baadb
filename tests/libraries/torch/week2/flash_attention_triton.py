"""PyTorch's own FlashAttention-2: no Triton, and on a GPU only. It is what speed is compared with."""

from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def flash_attention(q, k, v, causal=False, softmax_scale=None):
    if not q.is_cuda:
        raise NotImplementedError("PyTorch's FlashAttention-2 needs a GPU")
    if causal and q.size(1) != k.size(1):
        raise NotImplementedError("scaled_dot_product_attention aligns its causal mask at the top left")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=softmax_scale, enable_gqa=True)
    return out.transpose(1, 2)

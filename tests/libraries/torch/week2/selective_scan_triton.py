"""A scan by chunks, compiled by PyTorch: what speed is compared with on a GPU that has no mamba-ssm."""

import torch
from torch.nn import functional as F

CHUNK = 64


@torch.compile
def _scan(u, delta, A, B, C):
    """u and delta (b, d, l), A (d, n), B and C (b, n, l), l a multiple of CHUNK. In float32."""
    chunked = lambda x: x.unflatten(-1, (-1, CHUNK))  # noqa: E731
    decay = torch.exp(chunked(delta)[:, :, None] * A[:, :, None, None])  # (b, d, n, chunks, CHUNK)
    state = chunked(delta * u)[:, :, None] * chunked(B)[:, None]
    step = 1
    while step < CHUNK:  # doubling: each position takes in the sum that ends `step` before it
        state = state + decay * F.pad(state, (step, 0))[..., :CHUNK]
        decay = decay * F.pad(decay, (step, 0), value=1.0)[..., :CHUNK]
        step *= 2
    entering, before = torch.zeros_like(state[..., 0, 0]), []
    for end, kept in zip(state[..., -1].unbind(-1), decay[..., -1].unbind(-1), strict=True):
        before.append(entering)
        entering = kept * entering + end
    state = state + decay * torch.stack(before, -1)[..., None]
    return (state * chunked(C)[:, None]).sum(2).flatten(-2)


def selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # fmt: skip
    if not u.is_cuda:
        raise NotImplementedError("the compiled scan is for a GPU")
    if B.dim() != 3 or C.dim() != 3 or return_last_state or u.size(-1) % CHUNK or not u.size(-1):
        raise NotImplementedError("the compiled scan takes plain B and C and whole chunks, and returns no state")
    delta = delta.float() if delta_bias is None else delta.float() + delta_bias.float()[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    out = _scan(u.float(), delta, A.float(), B.float(), C.float())
    out = out if D is None else out + u.float() * D.float()[:, None]
    return (out if z is None else out * F.silu(z.float())).to(u.dtype)

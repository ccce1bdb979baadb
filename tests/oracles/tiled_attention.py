"""Reference for week2/tiled_attention: the same functions with the full matrix of scores, in any dtype.

Parameters are those of the exercise; block sizes, which do not change the result, are ignored.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tests.oracles.attention import dims


def softmax(scores: Tensor, block: int = 1) -> Tensor:
    """Softmax over the last dimension; zeros for a row of -inf."""
    lost = (scores == -math.inf).all(-1, keepdim=True) if scores.size(-1) else scores
    return torch.where(lost, 0.0, torch.softmax(torch.where(lost, 0.0, scores), -1)) if scores.size(-1) else scores + 0


def visible(
    queries: int, keys: int, causal: bool = False, window_size: tuple[int, int] = (-1, -1), device: str = "cpu"
) -> Tensor:
    """(queries, keys), True where the query sees the key; the last query and the last key are aligned."""
    left, right = window_size
    distance = torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None] - (keys - queries)
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device)
    if causal or right >= 0:
        seen &= distance <= (0 if causal else right)
    if left >= 0:
        seen &= distance >= -left
    return seen


@dims(("batch", "query", "head", "channel"), ("batch", "head", "query"))
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = False,
    softmax_scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    block_q: int = 64,
    block_k: int = 64,
    return_lse: bool = False,
) -> Any:
    """`flash_attn.flash_attn_func` by its definition: out or, with return_lse, (out, lse), lse being (B, H, S_q)."""
    group = q.size(2) // k.size(2)
    reads = torch.arange(q.size(2), device=q.device) // group  # the key head of each head
    scores = torch.einsum("bihd,bjhd->bhij", q, k[:, :, reads])
    scores = scores * (q.size(-1) ** -0.5 if softmax_scale is None else softmax_scale)
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    seen = visible(q.size(1), k.size(1), causal, window_size, str(q.device))
    sees = seen.any(-1, keepdim=True)  # (S_q, 1)
    scores = torch.where(sees, torch.where(seen, scores, -math.inf), 0.0)
    weights = torch.where(sees, torch.softmax(scores, -1), 0.0) if k.size(1) else scores
    out = torch.einsum("bhij,bjhd->bihd", weights, v[:, :, reads])
    if not return_lse:
        return out
    lse = torch.logsumexp(scores, -1) if k.size(1) else scores.sum(-1)
    return out, torch.where(sees.squeeze(-1), lse, -math.inf)


# --- FP8 ------------------------------------------------------------------------------------------------------------

FP8_MAX = 448.0  # the largest number of float8_e4m3fn


def fp8_scale(x: Tensor, block: int) -> Tensor:
    """(B, ceil(S / block), H): the largest absolute value of each block / 448, or 1 for a block of zeros."""
    largest = [part.abs().amax(dim=(1, 3)) for part in x.split(block, dim=1)] if x.size(1) else []
    scale = torch.stack(largest, 1) / FP8_MAX if largest else x.new_zeros(x.size(0), 0, x.size(2))
    return torch.where(scale > 0, scale, 1.0)


def on_fp8_grid(x: Tensor, scale: Tensor | float) -> Tensor:
    """x rounded to `scale` times a float8_e4m3fn number; `scale` broadcasts against x."""
    return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale


def hadamard(width: int) -> Tensor:
    """The orthogonal Hadamard matrix (width, width), by Sylvester's doubling."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < width:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(width)


def fp8_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = False,
    softmax_scale: float | None = None,
    block: int = 64,
    *,
    rotated: bool = True,
    per_tensor: bool = False,
) -> Tensor:
    """Attention in float64 on q, k and v rounded to float8_e4m3fn, with or without the rotation and block scales."""
    if rotated:
        signs = torch.where(torch.arange(q.size(-1)) * 7919 % 13 < 6, 1.0, -1.0).double()
        q, k = q.double() * signs @ hadamard(q.size(-1)), k.double() * signs @ hadamard(k.size(-1))
    rounded = []
    for x in (q.double(), k.double(), v.double()):
        scale: Tensor | float = x.abs().max() / FP8_MAX
        if not per_tensor:
            scale = fp8_scale(x, block).repeat_interleave(block, 1)[:, : x.size(1), :, None]
        rounded.append(on_fp8_grid(x, scale))
    q, k, v = rounded
    return attention(q, k, v, causal=causal, softmax_scale=softmax_scale)

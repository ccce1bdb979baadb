"""The oracle of tiled attention agrees with PyTorch and flash-attn wherever they offer the same."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from tests.oracles import tiled_attention as oracle
from tests.oracles.references import reference


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def qkv(queries: int, keys: int, heads: int = 2, kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return (
        normal(2, queries, heads, 8),
        normal(2, keys, kv_heads, 8, seed=1),
        normal(2, keys, kv_heads, 5, seed=2),
    )


def assert_same(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    above = normal(*ours.shape, seed=9).detach()
    assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, above), torch.autograd.grad(theirs, inputs, above), strict=True
    ):
        assert_close(mine, other)


@pytest.mark.parametrize("lengths", [(7, 7), (4, 9), (1, 6)])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True},
        {"window_size": (2, 1)},
        {"window_size": (-1, 2)},
        {"causal": True, "window_size": (3, 4)},
        {"softcap": 1.5},
        {"softcap": 1.5, "causal": True},
    ],
    ids=str,
)
def test_it_is_flash_attn_s_reference(lengths: tuple[int, int], kv_heads: int, options: dict[str, Any]) -> None:
    q, k, v = qkv(*lengths, kv_heads=kv_heads)
    attention_ref = reference("flash_attn.utils.testing.attention_ref")
    left, right = options.get("window_size", (-1, -1))
    window = (None if left < 0 else left, None if right < 0 else right)
    theirs, _ = attention_ref(q, k, v, upcast=False, **options | {"window_size": window})
    ours = oracle.attention(q, k, v, **options)
    assert_same(ours, theirs, q, k, v)


@pytest.mark.parametrize("lengths", [(7, 7), (4, 9), (9, 4)])
def test_causal_is_pytorch_s_lower_right(lengths: tuple[int, int]) -> None:
    from torch.nn.attention.bias import causal_lower_right

    q, k, v = qkv(*lengths, heads=4)
    # Only queries that see a key: PyTorch's causal_lower_right returns NaN for the others.
    first = max(lengths[0] - lengths[1], 0)
    queries, keys, values = (x.transpose(1, 2) for x in (q[:, first:], k, v))
    bias = causal_lower_right(lengths[0] - first, lengths[1])
    theirs = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, enable_gqa=True).transpose(1, 2)
    ours = oracle.attention(q, k, v, causal=True)
    assert_same(ours[:, first:], theirs, q, k, v)


def test_lse_is_pytorch_s() -> None:
    q, k, v = qkv(4, 9)
    _, lse = oracle.attention(q, k, v, softmax_scale=0.4, return_lse=True)
    scores = 0.4 * q.transpose(1, 2) @ k.transpose(1, 2).mT
    assert_same(lse, scores.logsumexp(-1), q, k)


@pytest.mark.parametrize("lengths", [(5, 2), (3, 0)])
def test_a_query_that_sees_no_key_gets_zero_and_leaves_no_nan(lengths: tuple[int, int]) -> None:
    q, k, v = qkv(*lengths)
    out, lse = oracle.attention(q, k, v, causal=True, return_lse=True)
    assert out[:, :3].eq(0).all()
    assert lse[:, :, :3].eq(-math.inf).all()
    for gradient in torch.autograd.grad([out.sum(), lse[:, :, 3:].sum()], [q, k, v], allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


def test_softmax_is_pytorch_s() -> None:
    scores = normal(3, 7).detach()
    assert_close(oracle.softmax(scores), scores.softmax(-1))
    scores[1] = -math.inf
    assert oracle.softmax(scores)[1].eq(0).all()


def test_the_fp8_grid_is_that_of_the_dtype() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    every = every[~every.isnan()]
    assert every.max() == oracle.FP8_MAX
    assert torch.equal(oracle.on_fp8_grid(every * 0.25, 0.25), every * 0.25)


def test_fp8_scales_are_the_largest_of_each_block() -> None:
    x = normal(2, 7, 3, 4).detach()
    x[0, :3] = 0.0
    scale = oracle.fp8_scale(x, 3)
    assert scale.shape == (2, 3, 3)
    assert scale[0, 0].eq(1).all()
    assert_close(scale[1, 2] * oracle.FP8_MAX, x[1, 6].abs().amax(-1))


@pytest.mark.parametrize("width", [1, 2, 16])
def test_the_hadamard_matrix_is_scipy_s_and_orthogonal(width: int) -> None:
    from scipy.linalg import hadamard

    ours = oracle.hadamard(width)
    assert_close(ours * math.sqrt(width), torch.from_numpy(hadamard(width)).double())
    assert_close(ours @ ours.T, torch.eye(width, dtype=torch.float64))


def test_fp8_attention_is_attention_but_for_rounding() -> None:
    q, k, v = (x.detach() for x in qkv(20, 30))
    exact = oracle.attention(q, k, v, causal=True)
    for rotated in (True, False):
        for per_tensor in (True, False):
            error = oracle.fp8_attention(q, k, v, True, block=8, rotated=rotated, per_tensor=per_tensor) - exact
            assert 0.005 < error.norm() / exact.norm() < 0.1

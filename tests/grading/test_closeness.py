"""The closeness rule: its margins on right and on wrong attentions, and each of its criteria."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from grading import closeness
from grading.closeness import Comparison, compare

# --- margins ------------------------------------------------------------------------------------------------------
#
# Seven right attentions and many wrong ones, outputs and all three gradients, over shapes, masks and score scales.
# Ratios are error / bound: an answer passes up to 1. Measured with 416 draws per dtype (the test below runs 26):
#
#                       float32    float64    float16   bfloat16
#   right, largest      RIGHT_MAX: see below
#
# A half-precision accumulator in float32 is the subtlest of the wrong ones.

Attention = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
SHAPES = [  # batch, heads, queries, keys, width
    (1, 1, 1, 1, 1), (1, 1, 1, 2, 1), (1, 2, 2, 1, 3), (1, 1, 3, 2, 4), (2, 3, 1, 1, 1), (2, 3, 1, 5, 8), (1, 2, 5, 5, 2),
    (2, 3, 7, 7, 8), (1, 2, 17, 9, 16), (2, 3, 65, 65, 32), (1, 1, 4, 65, 8), (2, 2, 1, 65, 16), (1, 4, 33, 3, 1),
]  # fmt: skip


def scores(query: Tensor, key: Tensor, visible: Tensor) -> Tensor:
    return (query @ key.mT / math.sqrt(query.size(-1))).masked_fill(~visible, -math.inf)


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return torch.softmax(scores(query, key, visible), -1) @ value


def with_einsum(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    s = torch.einsum("bhld,bhsd->bhls", query, key) * query.size(-1) ** -0.5
    s = s.masked_fill(~visible, -math.inf)
    p = torch.exp(s - s.amax(-1, keepdim=True))
    return torch.einsum("bhls,bhsd->bhld", p / p.sum(-1, keepdim=True), value)


def scaling_the_query_first(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    s = (query * query.size(-1) ** -0.5) @ key.mT
    return torch.softmax(s.masked_fill(~visible, -math.inf), -1) @ value


def in_log_space(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return torch.exp(torch.log_softmax(scores(query, key, visible), -1)) @ value


def in_float64(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return attend(query.double(), key.double(), value.double(), visible).to(query.dtype)


def online(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Blocks of keys with a running maximum, accumulators in float32."""
    wide = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (x.to(wide) for x in (query, key, value))
    highest = q.new_full((*q.shape[:-1], 1), -math.inf)
    total, out = torch.zeros_like(highest), torch.zeros_like(q)
    for start in range(0, k.size(2), 4):
        block = slice(start, start + 4)
        s = scores(q, k[:, :, block], visible[..., block])
        new = torch.maximum(highest, s.amax(-1, keepdim=True)).detach()
        p, kept = torch.exp(s - new), torch.exp(highest - new)
        total, out, highest = total * kept + p.sum(-1, keepdim=True), out * kept + p @ v[:, :, block], new
    return (out / total).to(query.dtype)


class Recomputing(torch.autograd.Function):
    """As FlashAttention: keeps log-sum-exp, recomputes the weights in backward, dS = P (dP - sum(dO O))."""

    @staticmethod
    def forward(ctx, query, key, value, visible):
        wide = torch.promote_types(query.dtype, torch.float32)
        s = scores(query, key, visible).to(wide)
        lse = torch.logsumexp(s, -1, keepdim=True)
        out = torch.exp(s - lse).to(query.dtype) @ value
        ctx.save_for_backward(query, key, value, visible, out, lse)
        return out

    @staticmethod
    def backward(ctx, above):
        query, key, value, visible, out, lse = ctx.saved_tensors
        p = torch.exp(scores(query, key, visible) - lse)
        delta = (above.to(p.dtype) * out).sum(-1, keepdim=True)
        ds = (p * (above @ value.mT - delta) / math.sqrt(query.size(-1))).to(query.dtype)
        return ds @ key, ds.mT @ query, p.to(query.dtype).mT @ above, None


RIGHT: dict[str, Attention] = {
    "einsum": with_einsum,
    "query scaled first": scaling_the_query_first,
    "log space": in_log_space,
    "in float64": in_float64,
    "online softmax": online,
    "recomputing": Recomputing.apply,
    "PyTorch's": lambda q, k, v, visible: F.scaled_dot_product_attention(q, k, v, attn_mask=visible),
}


def edited(edit: Callable[[Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    return edit(attend(q, k, v, visible))


def without_rows(out: Tensor, rows: int) -> Tensor:
    return torch.cat([out[:, :, :-rows], torch.zeros_like(out[:, :, -rows:])], 2)


def with_one_slice_rolled(out: Tensor) -> Tensor:
    return torch.cat([out[:, :-1], out[:, -1:].roll(1, 2)], 1)


WRONG: dict[str, Attention] = {
    "one key dropped": lambda q, k, v, m: attend(q, k[:, :, 1:], v[:, :, 1:], m[..., 1:]),
    "one slice shifted by a row": partial(edited, with_one_slice_rolled),
    "last row zero": partial(edited, partial(without_rows, rows=1)),
    "last quarter zero": lambda q, k, v, m: without_rows(attend(q, k, v, m), max(1, q.size(2) // 4)),
    "all zero": partial(edited, lambda out: out * 0),
    "its mean everywhere": partial(edited, lambda out: out * 0 + out.mean()),
    "no gradient to the query": lambda q, k, v, m: attend(q.detach(), k, v, m),
    "no gradient to the key": lambda q, k, v, m: attend(q, k.detach(), v, m),
    "no gradient to the value": lambda q, k, v, m: attend(q, k, v.detach(), m),
}
# Faults that only float32 and float64 can tell from rounding.
WRONG_IN_FULL_PRECISION: dict[str, Attention] = {
    "scale off by 1%": lambda q, k, v, m: attend(q * 1.01, k, v, m),
    "weights in half precision": lambda q, k, v, m: torch.softmax(scores(q, k, m), -1).half().to(v.dtype) @ v,
    "accumulator in half precision": lambda q, k, v, m: (torch.softmax(scores(q, k, m), -1).half() @ v.half()).to(v.dtype),
    "softmax in half precision": lambda q, k, v, m: torch.softmax(scores(q, k, m).half(), -1).to(v.dtype) @ v,
}


def solve(attention: Attention, visible: Tensor, leaves: Sequence[Tensor]) -> dict[str, Tensor]:
    """Output and gradients for query, key, value and the gradient from above."""
    *inputs, above = leaves
    inputs = [leaf.detach().requires_grad_() for leaf in inputs]
    output = attention(*inputs, visible)
    gradients = torch.autograd.grad(output, inputs, above.to(output.dtype), allow_unused=True, materialize_grads=True)
    return {"output": output.detach(), **dict(zip(("dq", "dk", "dv"), gradients, strict=True))}


def ratios(attentions: Mapping[str, Attention], visible: Tensor, leaves: Sequence[Tensor]) -> dict[str, float]:
    """error / bound of each, judged side by side so that the reference is computed once."""

    def alike(leaves: Sequence[Tensor]) -> dict[str, Tensor]:
        return {f"{name}: {key}": x for key, x in solve(attend, visible, leaves).items() for name in attentions}

    answers = {
        f"{name}: {key}": tensor
        for name, attention in attentions.items()
        for key, tensor in solve(attention, visible, leaves).items()
    }
    worst = dict.fromkeys(attentions, 0.0)
    for tensor in compare(answers, alike, leaves).tensors:
        name = tensor.name.partition(":")[0]
        worst[name] = max(worst[name], tensor.ratio)
    return worst


def case(seed: int, dtype: torch.dtype, scales: Sequence[float]) -> tuple[Tensor, list[Tensor]]:
    """Which keys are visible (causal, some or all of them), and query, key, value and the gradient from above."""
    generator = torch.Generator().manual_seed(seed)
    batch, heads, queries, keys, width = SHAPES[seed % len(SHAPES)]
    shapes = [(batch, heads, length, width) for length in (queries, keys, keys, queries)]
    leaves = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    leaves[0] *= scales[seed // len(SHAPES) % len(scales)]
    visible = [
        torch.ones(queries, keys, dtype=torch.bool),
        torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries),
        torch.rand(batch, 1, queries, keys, generator=generator) < 0.7,
    ][seed % 7 % 3]
    visible = visible.expand(batch, 1, queries, keys).clone()
    visible[..., 0] = True
    return visible, [leaf.to(dtype) for leaf in leaves]


ALL_DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)


@ALL_DTYPES
def test_right_attentions_pass_with_a_margin(dtype):
    limit = 1 if torch.finfo(dtype).bits <= 16 else 0.5
    for seed in range(26):
        for name, ratio in ratios(RIGHT, *case(seed, dtype, scales=(0.1, 1, 8, 30))).items():
            assert ratio < limit, f"{name}, seed {seed}"


@ALL_DTYPES
def test_wrong_attentions_fail_with_a_margin(dtype):
    half = torch.finfo(dtype).bits <= 16
    for seed in (7, 9, 20, 22, 33, 35):  # the two square shapes, where each fault shows
        visible, leaves = case(seed, dtype, scales=(0.1, 1))
        for name, ratio in ratios(WRONG if half else WRONG | WRONG_IN_FULL_PRECISION, visible, leaves).items():
            assert ratio > 2 if half else 10, f"{name}, seed {seed}"

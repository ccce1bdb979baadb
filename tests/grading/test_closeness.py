"""The closeness rule: its margins on right and wrong attentions, and each of its criteria."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from grading.judge import closeness, rounding
from grading.judge.closeness import judge_closeness

# --- margins ------------------------------------------------------------------------------------------------------
#
# Right and wrong attentions: outputs and gradients of query, key and value, over masks, scales of the scores, and
# shapes down to one number. error / bound measured with 832 draws in each dtype; an answer is right up to 1.
#
#                                               float32    float64    float16   bfloat16
#   right, largest (scores of 0.1, 1, 8, 30)       0.21       0.22       0.53       0.59
#   wrong, smallest (scores of 0.1 and 1)            31     2 10^10        21        3.0
#   wrong, smallest (scores of 8)                   4.3     2 10^9       7.8        1.1
#
# The most accurate wrong ones keep weights in half precision (float32 and float64), or lose a gradient or one row of 65
# (half precisions). The right ones do not include accumulators in half precision, which in one of 400 draws exceed the
# bound by a factor of up to 2, where a whole slice sees a single key. In half precisions the wrong ones do not include
# a scale off by 1%, which rounding does explain.

Attention = Callable[..., Tensor]  # of query, key, value, visible
SHAPES = [  # batch, heads, queries, keys, width
    (1, 1, 1, 1, 1), (1, 1, 1, 2, 1), (1, 2, 2, 1, 3), (1, 1, 3, 2, 4), (2, 3, 1, 1, 1), (2, 3, 1, 5, 8),
    (1, 2, 5, 5, 2), (2, 3, 7, 7, 8), (1, 2, 17, 9, 16), (2, 3, 65, 65, 32), (1, 1, 4, 65, 8), (2, 2, 1, 65, 16),
    (1, 4, 33, 3, 1),
]  # fmt: skip
SQUARE = (7, 9, 20, 22)  # seeds with as many queries as keys, 7 or 65, so that every fault is visible
SCALES = (0.1, 1.0, 8.0, 30.0)  # of the scores


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
    """Like FlashAttention: saves log-sum-exp, recomputes the weights in backward, dS = P (dP - sum(dO O))."""

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


def attend_in_half(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return torch.softmax(scores(query, key, visible), -1).half() @ value.half()


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
    "accumulator in half precision": lambda q, k, v, m: attend_in_half(q, k, v, m).to(v.dtype),
    "softmax in half precision": lambda q, k, v, m: torch.softmax(scores(q, k, m).half(), -1).to(v.dtype) @ v,
}


def solve(attention: Attention, visible: Tensor, leaves: Sequence[Tensor]) -> dict[str, Tensor]:
    """The output and gradients for leaves query, key, value and the output's gradient."""
    *inputs, above = leaves
    inputs = [leaf.detach().requires_grad_() for leaf in inputs]
    output = attention(*inputs, visible)
    gradients = torch.autograd.grad(output, inputs, above.to(output.dtype), allow_unused=True, materialize_grads=True)
    return {"output": output.detach(), **dict(zip(("dq", "dk", "dv"), gradients, strict=True))}


def rejected(attentions: Mapping[str, Attention], visible: Tensor, leaves: Sequence[Tensor], share: float) -> set[str]:
    """The attentions that fail if errors may be only `share` times as large as the rule allows."""

    def reference(leaves: Sequence[Tensor]) -> dict[str, Tensor]:
        right = solve(attend, visible, leaves)
        return {f"{name}: {key}": tensor for name in attentions for key, tensor in right.items()}

    answers = {
        f"{name}: {key}": tensor
        for name, attention in attentions.items()
        for key, tensor in solve(attention, visible, leaves).items()
    }
    factor = closeness.HALF_FACTOR if is_half(leaves[0].dtype) else closeness.FACTOR
    tensors = judge_closeness(answers, reference, leaves, factor=factor * share).tensors
    return {tensor.name.partition(":")[0] for tensor in tensors if not tensor.ok}


def is_half(dtype: torch.dtype) -> bool:
    return torch.finfo(dtype).bits <= 16


def case(seed: int, dtype: torch.dtype, scale: float) -> tuple[Tensor, list[Tensor]]:
    """The visible keys (all, some or the earlier ones), and query, key, value and the output's gradient."""
    generator = torch.Generator().manual_seed(seed)
    batch, heads, queries, keys, width = SHAPES[seed % len(SHAPES)]
    shapes = [(batch, heads, length, width) for length in (queries, keys, keys, queries)]
    leaves = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    leaves[0] *= scale
    visible = [
        torch.ones(queries, keys, dtype=torch.bool),
        torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries),
        torch.rand(batch, 1, queries, keys, generator=generator) < 0.7,
    ][seed % 7 % 3]
    visible = visible.expand(batch, 1, queries, keys).clone()
    visible[..., 0] = True
    return visible, [leaf.to(dtype) for leaf in leaves]


ALL_DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are slower with two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@ALL_DTYPES
def test_right_attentions_pass_with_a_margin(dtype):
    share = 1 / 1.5 if is_half(dtype) else 1 / 2
    for seed in range(len(SHAPES)):
        visible, leaves = case(seed, dtype, scale=SCALES[seed % len(SCALES)])
        assert rejected(RIGHT, visible, leaves, share) == set(), f"seed {seed}"


@ALL_DTYPES
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_wrong_attentions_fail_with_a_margin(dtype, scale):
    wrong, share = (WRONG, 2) if is_half(dtype) else (WRONG | WRONG_IN_FULL_PRECISION, 10)
    for seed in SQUARE:
        visible, leaves = case(seed, dtype, scale)
        assert rejected(wrong, visible, leaves, share) == set(wrong), f"seed {seed}"


def test_in_half_precision_an_error_of_half_precision_is_no_fault():
    visible, leaves = case(SQUARE[0], torch.float16, scale=1.0)
    assert rejected({"weights": WRONG_IN_FULL_PRECISION["weights in half precision"]}, visible, leaves, 1) == set()


# --- the parts of the rule ----------------------------------------------------------------------------------------


def judge(answer: Tensor, oracle: Callable[..., Tensor], *leaves: Tensor, factor: float | None = None) -> Any:
    """One output compared with the oracle's output for the leaves."""
    comparison = judge_closeness({"output": answer}, lambda leaves: {"output": oracle(*leaves)}, leaves, factor=factor)
    return comparison.tensors[0]


def same(x: Tensor) -> Tensor:
    return x * 1


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@ALL_DTYPES
def test_the_exact_answer_is_right(dtype):
    x = normal(2, 3, 4, 5, dtype=dtype)
    found = judge(x, same, x)
    assert (found.ok, found.ratio, found.max_error, int(found.mask.sum())) == (True, 0, 0, 0)


def test_an_error_in_one_small_slice_is_seen_among_large_ones():
    x = torch.stack([normal(4, 5) * 1e6, normal(4, 5)])
    wrong = x.clone()
    wrong[1, 2, 3] += 1e-3
    found = judge(wrong, same, x)
    assert (found.failed, found.worst, int(found.mask.sum())) == ("max", (1, 2, 3), 1)
    assert judge(wrong[:, :, 0], same, x[:, :, 0]).ok, "in a matrix it is one error among numbers of 1e6"


def test_errors_that_are_each_small_may_be_too_large_on_average():
    """Rows of 1e4 may have larger errors than rows of 1, but not all rows may have errors that large."""
    x = normal(1, 100, 50)
    x[0, 0] *= 1e4
    found = judge(x + 0.01, same, x)
    assert found.failed == "mean"
    assert found.mask.double().mean() > 0.9


@pytest.mark.parametrize(
    ("position", "value", "failed"),
    [(0, math.nan, "nan"), (1, 0.0, "nan"), (0, math.inf, "inf"), (2, -math.inf, "inf"), (3, 0.0, "inf")],
)
def test_nan_and_inf_belong_where_the_reference_has_them(position, value, failed):
    x = torch.tensor([1.0, math.nan, math.inf, -math.inf])
    assert judge(x, same, x).ok
    wrong = x.clone()
    wrong[position] = value
    found = judge(wrong, same, x)
    assert (found.failed, found.ratio, found.worst) == (failed, math.inf, (position,))
    assert found.mask.nonzero().tolist() == [[position]]


def test_a_number_beyond_the_range_of_the_dtype_is_inf():
    x = torch.tensor([300.0, 2.0], dtype=torch.float16)
    square = lambda x: x * x  # noqa: E731
    assert judge(x * x, square, x).ok
    assert judge(torch.tensor([65504.0, 4.0], dtype=torch.float16), square, x).failed == "inf"


def test_a_softmax_that_overflows_is_wrong():
    x = torch.tensor([[1.0, 100.0]])
    overflowing = torch.exp(x) / torch.exp(x).sum()
    assert judge(overflowing, lambda x: torch.softmax(x, -1), x).failed == "nan"


def test_zeros_are_exact():
    x = torch.stack([torch.zeros(3, 4), torch.ones(3, 4)])
    nearly = x.clone()
    nearly[0, 1, 2] = 1e-30
    assert judge(x, same, x).ok
    assert not judge(nearly, same, x).ok


@pytest.mark.parametrize("hidden", [-math.inf, -1e9, torch.finfo(torch.float32).min])
def test_masks_of_large_numbers_spoil_no_bound(hidden):
    q, k, v = normal(2, 5, 4), normal(2, 6, 4) + 1, normal(2, 6, 4) - 1
    mask = torch.zeros(5, 6).masked_fill(torch.ones(5, 6).triu(2).bool(), hidden)
    masked = lambda q, k, v, mask: torch.softmax(q @ k.mT + mask, -1) @ v  # noqa: E731
    right = masked(q, k, v, mask)
    assert judge(right, masked, q, k, v, mask).ok
    for wrong in (masked(q, k, v, torch.zeros(5, 6)), right * 0, right + 1e-4):
        assert not judge(wrong, masked, q, k, v, mask).ok


def test_inputs_of_any_size():
    for scale in (1e-30, 1e4, 1e30):
        x = normal(3, 4, 5) * scale
        assert judge(x.sum(-1), lambda x: x.sum(-1), x).ok
        assert not judge(x.sum(-1) * 1.001, lambda x: x.sum(-1), x).ok


def test_a_gradient_that_cancels_to_zero_may_leave_a_residue():
    """One key has all the weight, so the scores have no gradient, but dP and sum(dO O) are rounded separately."""
    q, k, v, above = (normal(1, 1, length, 50) for length in (3, 1, 1, 3))
    visible = torch.ones(3, 1, dtype=torch.bool)
    right = solve(attend, visible, [x.double() for x in (q, k, v, above)])
    residue = solve(Recomputing.apply, visible, [q, k, v, above])
    assert not right["dq"].any()
    assert residue["dq"].any()
    assert rejected({"recomputing": Recomputing.apply}, visible, [q, k, v, above], 1) == set()


def test_integers_and_booleans_are_equal_or_wrong():
    x = normal(3, 4)
    order = lambda x: x.argsort(-1)  # noqa: E731
    positive = lambda x: x > 0  # noqa: E731
    assert judge(order(x), order, x).ok
    assert judge(positive(x), positive, x).ok
    swapped = order(x).clone()
    swapped[1] = swapped[1].roll(1)
    found = judge(swapped, order, x)
    assert found.failed == "equal"
    assert found.mask[1].any() and not found.mask[[0, 2]].any()
    assert found.worst == tuple(found.mask.nonzero()[0].tolist())


def test_empty_and_scalar_answers():
    assert judge(torch.empty(2, 0, 3), same, torch.empty(2, 0, 3)).ok
    x = torch.tensor(2.0)
    assert judge(x, same, x).ok
    found = judge(x + 1, same, x)
    assert (found.failed, found.worst, found.mask.shape) == ("max", (), ())


def test_numbers_without_any_argument_are_judged_in_their_own_dtype():
    table = torch.arange(50)[:, None] / 10000 ** (torch.arange(8) / 8)
    wave = lambda: torch.sin(torch.arange(50, dtype=torch.float64)[:, None] / 10000 ** (torch.arange(8) / 8).double())  # noqa: E731
    assert judge(torch.sin(table), wave).ok
    assert not judge(torch.sin(table.bfloat16()).float(), wave).ok


def test_positions_are_exact_in_half_precision():
    """An angle computed in float32 is right for inputs in bfloat16; one computed in bfloat16 is not."""

    def turned(x: Tensor, dtype: torch.dtype) -> Tensor:
        angle = torch.arange(200, dtype=dtype) * 0.9
        return x * angle.cos()[:, None].to(x.dtype)

    x = normal(200, 4, dtype=torch.bfloat16)
    oracle = partial(turned, dtype=torch.float64)
    assert judge(turned(x, torch.float32), oracle, x).ok
    assert not judge(turned(x, torch.bfloat16), oracle, x, factor=4 * closeness.HALF_FACTOR).ok


def test_the_least_precise_dtype_is_the_one_to_round_to():
    x, weight = normal(5, 8, dtype=torch.float16), normal(8, 3)
    product = lambda x, w: x.to(w.dtype) @ w  # noqa: E731
    rounded = (x @ weight.half()).float()
    assert judge(rounded, product, x, weight).ok
    assert not judge(rounded, product, x.float(), weight).ok


def test_a_factor_widens_the_bound():
    x = normal(3, 4)
    off = x * (1 + 100 * torch.finfo(torch.float32).eps)
    assert not judge(off, same, x).ok
    assert judge(off, same, x, factor=1000).ok


def test_random_numbers_are_left_alone_and_verdicts_repeat(monkeypatch):
    visible, leaves = case(7, torch.float32, scale=1.0)
    answers = {name: tensor * 1.001 for name, tensor in solve(attend, visible, leaves).items()}
    before = torch.get_rng_state()
    first = judge_closeness(answers, partial(solve, attend, visible), leaves)
    monkeypatch.setattr(rounding, "_drawn", {})
    second = judge_closeness(answers, partial(solve, attend, visible), leaves)
    assert [x.ratio for x in first.tensors] == [x.ratio for x in second.tensors]
    assert not first.ok
    assert torch.equal(before, torch.get_rng_state())
    assert all(leaf.grad is None and not leaf.requires_grad for leaf in leaves)


def test_rounding_is_drawn_once_for_the_same_question():
    asked = 0

    def square(leaves):
        nonlocal asked
        asked += 1
        return {"output": leaves[0] * leaves[0]}

    def cost(x):
        before = asked
        assert not judge_closeness({"output": x * x + 1}, square, [x]).ok
        return asked - before

    x = normal(3, 4)
    assert cost(x) > 2
    assert cost(x.clone()) == 1
    assert cost(x + 1) > 2
    assert cost(x.double()) > 2


def test_what_a_student_reads():
    x = torch.tensor([0.5, 2.0])
    found = judge(torch.tensor([0.5, 3.0]), same, x)
    assert found.summary.startswith("off by up to 1; rounding explains at most ")
    assert found.expected == "2 at (1,)"
    assert found.returned.startswith("3 at (1,), ")
    assert found.returned.endswith(" times what rounding explains")
    assert judge(torch.tensor([0.5, math.nan]), same, x).summary == "NaN where a number belongs"
    assert judge(torch.tensor([0.5, math.inf]), same, x).summary == "inf where 2 belongs"
    assert judge(torch.tensor([1, 2]), lambda x: torch.tensor([1, 3]), x).summary == "1 of 2 numbers differ"


def test_what_cannot_be_compared_is_an_error():
    x = normal(3, 4)
    with pytest.raises(ValueError, match=r"output has the shape \(3, 3\), the reference \(3, 4\)"):
        judge(x[:, 1:], same, x)
    with pytest.raises(ValueError, match=r"the answers are \['other'\], the reference has \['output'\]"):
        judge_closeness({"other": x}, lambda leaves: {"output": leaves[0]}, [x])
    with pytest.raises(TypeError, match="output is complex"):
        judge(torch.complex(x, x), lambda x: torch.complex(x, x), x)


# --- Monte Carlo arithmetic ---------------------------------------------------------------------------------------


def rounded(dtype: torch.dtype, x: Tensor, function: Callable[[Tensor], Tensor] = same) -> Tensor:
    with rounding.Rounding(dtype, random.Random(0)):
        return function(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_an_operand_moves_by_one_rounding(dtype):
    x = normal(1000, dtype=dtype).double().requires_grad_()
    moved = ((rounded(dtype, x) - x) / x).abs()
    half_eps = torch.finfo(dtype).eps / 2
    assert 0.9 * half_eps < moved.max() <= half_eps
    assert 0.3 * half_eps < moved.mean() < 0.5 * half_eps


def test_equal_numbers_stay_equal_and_zeros_zero():
    x = torch.tensor([0.1, 0.0, 0.1, -0.0, math.inf, -math.inf, 1e300], dtype=torch.float64, requires_grad=True)
    moved = rounded(torch.float16, x)
    assert moved[0] == moved[2] != 0.1
    assert moved.tolist()[1] == moved.tolist()[3] == 0
    assert moved.tolist()[4:] == [math.inf, -math.inf, 1e300]


def test_what_does_not_depend_on_the_leaves_is_rounded_to_float32():
    positions = torch.arange(1000, dtype=torch.float64)
    moved = rounded(torch.bfloat16, positions)
    assert not torch.equal(moved, positions)
    assert (moved - positions).abs().max() < 1e-4


def test_what_decides_or_selects_is_exact():
    x = torch.arange(1000, dtype=torch.float64, requires_grad=True)
    assert torch.equal(rounded(torch.bfloat16, x, torch.floor), x)
    assert rounded(torch.bfloat16, x, lambda x: x >= x.topk(10).values[-1]).sum() == 10

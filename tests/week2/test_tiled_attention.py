"""Graded tests of week2/tiled_attention: the online softmax, attention and its gradients, what they cost, and FP8."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from grading import expect
from grading.data.request import cotangents
from tests.oracles import tiled_attention as oracle
from tests.oracles.references import reference

# What the exercise asks for: a hand-in that names it is looked at by a person (grading/course/review.py).
READY_MADE = (
    "scaled_dot_product_attention",
    "MultiheadAttention",
    "multi_head_attention_forward",
    "flex_attention",
    "flash_attn_func",
    "flash_attn_varlen_func",
    "memory_efficient_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_native_multi_head_attention",
    "_flash_attention_forward",
    "_efficient_attention_forward",
)

# --- online_softmax -------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("online")
def test_the_worked_example_of_the_online_softmax(submission):
    """The handout's row of four scores has the softmax 1/8, 2/8, 4/8, 1/8."""
    scores = torch.tensor([1.0, 2.0, 4.0, 1.0]).log()
    expect(submission.call("online_softmax", scores, 2)).close_to(oracle.softmax)


@pytest.mark.points(1)
@pytest.mark.handout("online")
def test_softmax_over_the_last_dimension(submission, draw):
    """Blocks of any size give the softmax: single numbers, a shorter last block, longer than the row."""
    for block in (1, 5, 30, 64):
        expect(submission.call("online_softmax", draw.normal(2, 3, 30, scale=3.0), block)).close_to(oracle.softmax)


@pytest.mark.points(1)
@pytest.mark.handout("online")
def test_the_maximum_may_stand_anywhere(submission, draw):
    """Scores of ±20,000, with the maximum in the last block or the first, are handled."""
    for descending in (False, True):
        scores = (draw.normal(2, 3, 29) * 6000).sort(descending=descending).values
        close = torch.cat(
            [scores, scores[..., [0, -1]] + draw.normal(2, 3, 2)], -1
        )  # so that weights are not just 0 and 1
        for moved in (close, close - 40_000):
            expect(submission.call("online_softmax", moved, 4)).close_to(oracle.softmax)


@pytest.mark.points(1)
@pytest.mark.handout("online")
def test_minus_infinity_hides_a_score(submission, draw):
    """Scores of -inf, even whole blocks of them, get no weight; a row of only -inf becomes zeros."""
    scores = draw.normal(3, 4, 17).masked_fill(~draw.mask(3, 4, 17, keep=0.5), -math.inf)
    scores[0, :, :9] = scores[1, :, 4:12] = scores[2, 1] = -math.inf
    expect(submission.call("online_softmax", scores, 4)).close_to(oracle.softmax)


@pytest.mark.points(1)
@pytest.mark.handout("precision")
def test_the_online_softmax_sums_in_a_wide_dtype(submission, draw):
    """Long rows are as accurate as their dtype allows: the running sum is in float32, or float64."""
    for dtype in ("float64", "float16", "bfloat16"):
        scores = draw.normal(2, 3000, dtype=dtype, scale=0.1)
        expect(submission.call("online_softmax", scores, 2)).close_to(oracle.softmax)


@pytest.mark.points(2)
@pytest.mark.handout("online")
def test_one_block_follows_the_other(submission, draw):
    """Each block is processed separately: more blocks take more operations."""
    scores = draw.normal(4, 512)
    operations = {block: submission.call("online_softmax", scores, block, count=True).counts for block in (512, 8)}
    one, many = operations[512]["ops"], operations[8]["ops"]
    expect.that(
        many >= one + 63,
        f"64 blocks take {many} operations and 1 block {one}: rows are processed as a whole, not block by block",
    )


@pytest.mark.points(1)
@pytest.mark.handout("online")
def test_rows_may_lie_anywhere_and_be_empty(submission, draw):
    """Scores may have any memory layout, empty rows, or no rows."""
    for scores in (draw.normal(9, 2, 5).permute(1, 2, 0), draw.normal(3, 1).expand(3, 10), draw.normal(2, 0),
                   draw.normal(0, 7), draw.normal(11)):  # fmt: skip
        expect(submission.call("online_softmax", scores, 4)).close_to(oracle.softmax)


@pytest.mark.points(1)
@pytest.mark.handout("online")
def test_a_block_of_no_scores_is_refused(submission, draw):
    """A block of less than 1 raises ValueError."""
    ordinary = submission.call("online_softmax", draw.normal(2, 5), 1)
    for block in (0, -3):
        got = submission.call("online_softmax", draw.normal(2, 5), block)
        expect(got).raises(ValueError, mentioning=["block", block], unlike=ordinary)


# --- tiled_attention: the function ----------------------------------------------------------------------------------


def normal(draw, batch=2, queries=21, keys=21, heads=2, kv_heads=None, width=8, value_width=None, **options):
    """q, k and v."""
    kv_heads = kv_heads or heads
    return (
        draw.normal(batch, queries, heads, width, **options),
        draw.normal(batch, keys, kv_heads, width, **options),
        draw.normal(batch, keys, kv_heads, value_width or width, **options),
    )


def check(submission, part, *inputs, **options):
    """Output and lse, then the gradients of the output alone: those of lse have tests of their own."""
    part = part or (lambda name: contextlib.nullcontext())
    with part("output"):
        expect(submission.call("tiled_attention", *inputs, **options, return_lse=True)).close_to(oracle.attention)
    with part("gradients"):
        expect(submission.call("tiled_attention", *inputs, grad=True, **options)).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.handout("forward")
def test_the_worked_example(submission):
    """The handout's query and four keys give the output 21 and lse ln 8."""
    q = torch.ones(1, 1, 1, 1)
    k = torch.tensor([1.0, 2.0, 4.0, 1.0]).log().reshape(1, 4, 1, 1)
    v = torch.tensor([8.0, 16.0, 24.0, 32.0]).reshape(1, 4, 1, 1)
    got = submission.call("tiled_attention", q, k, v, softmax_scale=1.0, block_k=2, return_lse=True)
    expect(got).close_to(oracle.attention)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("forward")
def test_a_single_tile(submission, draw, part):
    """A single tile computes attention, softmax(Q Kᵀ / √D) V, and its gradients."""
    q, k, v = normal(draw)
    with part("output"):
        expect(submission.call("tiled_attention", q, k, v)).close_to(oracle.attention)
    with part("gradients"):
        expect(submission.call("tiled_attention", q, k, v, grad=True)).close_to(oracle.attention)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("tiles", [[(7, 7), (4, 16), (16, 5)], [(1, 30), (30, 1)]], ids=["several", "extreme"])
@pytest.mark.handout("forward")
def test_tiles_of_any_size(submission, draw, part, tiles):
    """Tiles of any size give the same result, even if they do not divide the lengths."""
    q, k, v = normal(draw, queries=21, keys=26)
    for block_q, block_k in tiles:
        options = {"block_q": block_q, "block_k": block_k}
        with part("output"):
            expect(submission.call("tiled_attention", q, k, v, **options)).close_to(oracle.attention)
        with part("gradients"):
            expect(submission.call("tiled_attention", q, k, v, grad=True, **options)).close_to(oracle.attention)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("where", ["moving", "very-low"])
@pytest.mark.handout("forward")
def test_scores_far_from_the_ordinary(submission, draw, part, where):
    """The running maximum moves with every tile, or never; or all scores are about -3000."""
    q, k, v = normal(draw)
    q[..., 0] = q[..., 0].abs() + 4
    steps = 3 * torch.arange(21.0)[:, None]
    for channel in (steps, -steps) if where == "moving" else (k[..., 0] / 16 - 2000,):
        k = torch.cat([channel.expand(2, 21, 2)[..., None], k[..., 1:]], -1)
        options = {"block_q": 8, "block_k": 4}
        check(submission, part, q, k, v, **options)


@pytest.mark.points(1)
@pytest.mark.handout("forward")
def test_a_scale_that_is_given_replaces_the_default(submission, draw):
    """A given softmax_scale replaces 1/√D, even if it is 0."""
    q, k, v = normal(draw)
    for scale in (0.7, 0.0):
        got = submission.call("tiled_attention", q, k, v, softmax_scale=scale, block_q=8, block_k=8, grad=True)
        expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.handout("forward")
def test_lengths_and_widths_may_differ(submission, draw):
    """One query, one key, more keys than queries or fewer, and values of a different width."""
    for queries, keys, value_width in ((1, 19, 8), (19, 1, 8), (6, 19, 3), (19, 6, 12)):
        q, k, v = normal(draw, queries=queries, keys=keys, value_width=value_width)
        check(submission, None, q, k, v, block_q=4, block_k=8)


@pytest.mark.points(1)
@pytest.mark.handout("forward")
def test_an_empty_batch_gives_an_empty_result(submission, draw):
    """An empty batch, or no queries, gives an empty result of the right shape."""
    for batch, queries in ((0, 5), (2, 0)):
        q, k, v = normal(draw, batch=batch, queries=queries, keys=7, value_width=6)
        check(submission, None, q, k, v)


# --- lse ------------------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("lse")
def test_lse_comes_with_the_output(submission, draw, part):
    """return_lse also returns the natural log of the softmax's sum; gradients flow through both."""
    q, k, v = normal(draw, heads=3)
    tiles = {"block_q": 8, "block_k": 4, "return_lse": True}
    with part("output"):
        expect(submission.call("tiled_attention", q, k, v, **tiles)).close_to(oracle.attention)
    with part("gradients"):
        expect(submission.call("tiled_attention", q, k, v, grad=True, **tiles)).close_to(oracle.attention)


def lse_alone(module, q, k, v):
    inputs = [x.requires_grad_() for x in (q, k, v)]
    _, lse = module.tiled_attention(*inputs, causal=True, block_q=8, block_k=8, return_lse=True)
    gradients = torch.autograd.grad(lse.sum(), inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True)]


def gradients_of_lse_alone(q, k, v):
    with torch.enable_grad():
        q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
        _, lse = oracle.attention(q, k, v.detach(), causal=True, return_lse=True)
        return [*torch.autograd.grad(lse.sum(), [q, k]), torch.zeros_like(v)]


@pytest.mark.points(1)
@pytest.mark.handout("lse")
def test_a_loss_on_lse_alone(submission, draw):
    """A loss on lse alone gives gradients to q and k, and none to v."""
    q, k, v = normal(draw)
    expect(submission.run(lse_alone, q, k, v)).close_to(gradients_of_lse_alone, q, k, v)


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("tiles", [[(8, 8)], [(4, 16), (16, 4)]], ids=["square", "oblong"])
@pytest.mark.handout("masks")
def test_a_causal_query_sees_no_later_key(submission, draw, part, tiles):
    """With causal, a query sees the keys up to its own position, whatever the tiles' shape."""
    q, k, v = normal(draw, queries=40, keys=40)
    for block_q, block_k in tiles:
        options = {"causal": True, "block_q": block_q, "block_k": block_k}
        with part("output"):
            expect(submission.call("tiled_attention", q, k, v, **options)).close_to(oracle.attention)
        with part("gradients"):
            expect(submission.call("tiled_attention", q, k, v, grad=True, **options)).close_to(oracle.attention)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("lengths", [[(9, 31), (1, 17)], [(31, 30), (17, 1)]], ids=["fewer-queries", "more-queries"])
@pytest.mark.handout("masks")
def test_the_last_query_stands_at_the_last_key(submission, draw, part, lengths):
    """If the lengths differ, causal is aligned bottom-right: the last query sees all keys."""
    for queries, keys in lengths:
        q, k, v = normal(draw, queries=queries, keys=keys)
        options = {"causal": True, "block_q": 4, "block_k": 8}
        check(submission, part, q, k, v, **options)


@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("causal", "windows"),
    [(False, [(5, 9), (0, 0)]), (False, [(6, -1), (-1, 2)]), (True, [(5, 9), (7, -1)])],
    ids=["two-sided", "one-sided", "causal"],
)
@pytest.mark.handout("masks")
def test_a_window_hides_what_is_far_away(submission, draw, causal, windows):
    """A query sees `left` keys before its position and `right` after it; none after it with causal."""
    for window in windows:
        for queries in (29, 10):
            q, k, v = normal(draw, queries=queries, keys=29)
            options = {"causal": causal, "window_size": window, "block_q": 4, "block_k": 8}
            expect(submission.call("tiled_attention", q, k, v, grad=True, **options)).close_to(oracle.attention)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("lengths", [[(30, 6), (5, 0)], [(13, 11)]], ids=["whole-tiles", "part-of-a-tile"])
@pytest.mark.handout("empty-rows")
def test_a_query_that_sees_no_key_gets_zero(submission, draw, part, lengths):
    """A query that sees no key gets 0 and lse -inf, and leaves no NaN in any gradient."""
    for queries, keys in lengths:
        q, k, v = normal(draw, queries=queries, keys=keys)
        for window in ((-1, -1), (3, -1)):
            options = {"causal": True, "window_size": window, "block_q": 8, "block_k": 4}
            check(submission, part, q, k, v, **options)


# --- softcap and grouped heads --------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("softcap")
def test_softcap_bounds_the_scores(submission, draw, part):
    """With softcap, the scaled scores s become softcap · tanh(s / softcap), for lse too."""
    for softcap in (1.5, 20.0):
        q, k, v = normal(draw, scale=softcap**0.5)
        options = {"softcap": softcap, "softmax_scale": 0.8, "block_q": 8, "block_k": 8}
        check(submission, part, q, k, v, **options)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("softcap")
def test_hidden_keys_stay_hidden_under_softcap(submission, draw, part):
    """Keys are hidden after the cap: hidden ones get no weight and cause no NaN through tanh."""
    q, k, v = normal(draw, queries=14, keys=23, scale=2.0)
    options = {"softcap": 3.0, "causal": True, "window_size": (9, -1), "block_q": 4, "block_k": 8}
    with part("output"):
        expect(submission.call("tiled_attention", q, k, v, **options)).close_to(oracle.attention)
    with part("gradients"):
        expect(submission.call("tiled_attention", q, k, v, grad=True, **options)).close_to(oracle.attention)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("grouped-heads")
def test_neighbouring_heads_share_a_key_head(submission, draw, part):
    """Head h reads key/value head h // (H / H_k), which sums the gradients of all its readers."""
    for heads, kv_heads in ((6, 2), (4, 1)):
        q, k, v = normal(draw, heads=heads, kv_heads=kv_heads)
        options = {"causal": True, "block_q": 8, "block_k": 4}
        check(submission, part, q, k, v, **options)


@pytest.mark.points(1)
@pytest.mark.handout("grouped-heads")
def test_heads_that_cannot_be_shared_evenly_are_refused(submission, draw):
    """A number of heads that is not a multiple of the key heads raises ValueError."""
    got, ordinary = (submission.call("tiled_attention", *normal(draw, heads=heads, kv_heads=3)) for heads in (7, 6))
    expect(got).raises(ValueError, mentioning=[7, 3], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("forward")
def test_tiles_of_no_size_are_refused(submission, draw):
    """A block_q or block_k of less than 1 raises ValueError, which names it."""
    q, k, v = normal(draw)
    ordinary = submission.call("tiled_attention", q, k, v, block_q=8, block_k=5)
    for name, size in (("block_q", 0), ("block_k", 0), ("block_q", -8), ("block_k", -5)):
        got = submission.call("tiled_attention", q, k, v, **{name: size})
        expect(got).raises(ValueError, mentioning=[name, size], unlike=ordinary)


# --- precision and memory layout ------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("dtypes", [["float64"], ["float16", "bfloat16"]], ids=["float64", "half"])
@pytest.mark.handout("precision")
def test_every_dtype_is_as_accurate_as_it_can_be(submission, draw, part, dtypes):
    """The output has the inputs' dtype; lse, and all sums, are in float32 (float64 for float64)."""
    for dtype in dtypes:
        q, k, v = normal(draw, queries=20, keys=90, heads=4, kv_heads=2, dtype=dtype)
        promised = [q.dtype, torch.promote_types(q.dtype, torch.float32)]
        options = {"causal": True, "block_q": 8, "block_k": 4}
        with part("output"):
            got = submission.call("tiled_attention", q, k, v, **options, return_lse=True)
            expect(got).close_to(oracle.attention, dtypes=promised)
            exact = oracle.attention(q.double(), k.double(), v.double(), **options, return_lse=True)[1]
            error = (got.output[1].double() - exact).abs().max().item()
            expect.that(error < 1e-4, f"lse is off by {error:.2g}: keep scores and their sums in float32")
        with part("gradients"):
            got = submission.call("tiled_attention", q, k, v, grad=True, **options)
            expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.handout("precision")
def test_half_precision_with_large_scores(submission, draw):
    """Scores of ±100, and long sums of same-signed numbers, in half precision."""
    for dtype in ("float16", "bfloat16"):
        for scale in (12.0, 0.01):
            q, k, v = normal(draw, queries=9, keys=300, dtype=dtype)
            got = submission.call("tiled_attention", q * scale, k * scale, v + 1, block_q=8, block_k=20, grad=True)
            expect(got).close_to(oracle.attention)
    q, k, v = normal(draw, batch=1, queries=600, keys=3, heads=1, dtype="bfloat16")
    got = submission.call("tiled_attention", q / 8, k, v, block_q=1, grad=True, cotangent="expanded")
    expect(got).close_to(oracle.attention)  # the gradient of v sums 600 numbers of one sign, from one tile each


@pytest.mark.points(2)
@pytest.mark.handout("forward")
def test_inputs_need_not_be_contiguous(submission, draw):
    """Inputs and the incoming gradient may have any memory layout."""
    sliced = [draw.normal(2, 2, 2 * length, 16)[:, :, ::2, 4:12].transpose(1, 2) for length in (13, 18, 18)]
    expanded = [draw.normal(2, length, 1, 8).expand(2, length, 2, 8) for length in (13, 18, 18)]
    packed = draw.normal(2, 18, 3, 2, 8).unbind(2)
    options = {"causal": True, "block_q": 8, "block_k": 4, "grad": True}
    for q, k, v in (sliced, expanded, packed):
        for cotangent in ("transposed", "expanded"):
            got = submission.call("tiled_attention", q, k, v, cotangent=cotangent, **options)
            expect(got).close_to(oracle.attention)


def gradients_agree_with_differences(module, q, k, v, options):
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    call = lambda *inputs: module.tiled_attention(*inputs, block_q=2, block_k=3, **options)  # noqa: E731
    return call(*inputs).shape == q.shape and torch.autograd.gradcheck(call, inputs, raise_exception=False)


@pytest.mark.points(1)
@pytest.mark.handout("backward")
def test_gradients_agree_with_finite_differences(submission, draw):
    """torch.autograd.gradcheck accepts the gradients."""
    q, k, v = normal(draw, batch=1, queries=3, keys=5, kv_heads=1, width=3, dtype="float64")
    options = {"softcap": 2.0, "causal": True, "window_size": (3, 0)}
    expect(submission.run(gradients_agree_with_differences, q, k, v, options)).equal_to(True)


@pytest.mark.points(2)
@pytest.mark.handout("lse")
def test_gradients_flow_through_lse_under_every_option(submission, draw):
    """Gradients flow through lse also with masks, a softcap, shared heads, queries that see no key, and any layout."""
    options = {"causal": True, "block_q": 8, "block_k": 4, "return_lse": True, "grad": True}
    for shape, more in (
        ({"queries": 9, "keys": 31}, {}),
        ({"queries": 30, "keys": 6, "heads": 4, "kv_heads": 2}, {"window_size": (3, -1)}),  # most queries see no key
        ({"scale": 2.0}, {"causal": False, "softcap": 3.0, "cotangent": "transposed"}),
        ({"dtype": "bfloat16"}, {"softmax_scale": 0.5, "cotangent": "expanded"}),
    ):
        q, k, v = normal(draw, **shape)
        got = submission.call("tiled_attention", q, k, v, **options | more)
        expect(got).close_to(oracle.attention, dtypes=[q.dtype, torch.float32])


# --- what must stay the same ----------------------------------------------------------------------------------------


def first_queries(module, q, k, v, length, options):
    return module.tiled_attention(q, k, v, block_q=8, block_k=4, causal=True, **options)[:, :length]


@pytest.mark.points(1)
@pytest.mark.handout("masks")
def test_under_causal_a_prefix_stays_what_it_is(submission, draw):
    """Under causal, the beginning of a sequence has the same output whatever follows."""
    q, k, v = normal(draw, queries=37, keys=37)
    q[:, 19:], k[:, 19:], v[:, 19:] = 300.0, 300.0, 1e6
    for options in ({}, {"window_size": (10, 10)}):
        got = submission.run(first_queries, q, k, v, 19, options)
        expect(got).close_to(oracle.attention, q[:, :19], k[:, :19], v[:, :19], causal=True, **options)


@pytest.mark.points(1)
@pytest.mark.handout("forward")
def test_the_order_of_keys_does_not_matter(submission, draw):
    """Permuting keys and values together changes neither output nor lse."""
    q, k, v = normal(draw, queries=11, keys=37, scale=2.0)
    order = draw.permutation(37)
    got = submission.call("tiled_attention", q, k[:, order], v[:, order], block_q=4, block_k=8, return_lse=True)
    expect(got).close_to(oracle.attention, q, k, v, return_lse=True)


def shifted(q, k, v, shift):
    out, lse = oracle.attention(q, k, v, softmax_scale=0.5, return_lse=True)
    return out, lse + shift


@pytest.mark.points(1)
@pytest.mark.handout("lse")
def test_a_shift_of_all_scores_moves_lse_alone(submission, draw):
    """Adding a number to all scores adds it to lse and leaves the output unchanged."""
    q, k, v = normal(draw, queries=11, keys=37)
    for shift in (-20.0, 50.0):
        wider = [torch.cat([x, torch.full_like(x[..., :1], end)], -1) for x, end in ((q, 2.0), (k, shift))]
        options = {"softmax_scale": 0.5, "block_q": 4, "block_k": 8, "return_lse": True}
        got = submission.call("tiled_attention", *wider, v, **options)
        expect(got).close_to(oracle.attention)
        expect(got).close_to(shifted, q, k, v, shift, factor=256)  # the shift costs some digits


# --- compared with others -------------------------------------------------------------------------------------------


def by_name(output, gradients):
    return {"the output": output, **{f"the gradient of {x}": g for x, g in zip("qkv", gradients, strict=True)}}


def flash_attn_s(attention_ref, inputs, above, options, **how):
    """What flash-attn's reference computes, by name."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    output, _ = attention_ref(*inputs, **options, **how)
    return by_name(output.detach(), torch.autograd.grad(output, inputs, above))


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("precision")
def test_it_passes_flash_attn_s_own_test(submission, draw, part):
    """The error is at most twice that of flash-attn's reference in the same dtype, flash-attn's own rule."""
    attention_ref = reference("flash_attn.utils.testing.attention_ref")
    for dtype in ("float16", "bfloat16"):
        q, k, v = normal(draw, queries=40, keys=70, heads=4, kv_heads=2, width=16, dtype=dtype)
        options = {"causal": True, "window_size": (30, 0), "softcap": 5.0}
        got = submission.call("tiled_attention", q, k, v, block_q=16, block_k=16, grad=True, **options)
        (above,) = cotangents([got.output], "normal", got.request.seed)
        answer = by_name(got.output, [got.grad(x) for x in (q, k, v)])
        exact = flash_attn_s(attention_ref, [q, k, v], above, options)
        plain = flash_attn_s(attention_ref, [q, k, v], above, options, upcast=False, reorder_ops=True)
        for name, right in exact.items():
            error = (answer[name] - right).abs().max()
            allowed = 2 * (plain[name] - right).abs().max() + 2 * (right + 0.3 - 0.3 - right).abs().max()
            with part("output" if name == "the output" else "gradients"):
                expect.that(error <= allowed, f"{name} is off by {error:.3g}; flash-attn's tests allow {allowed:.3g}")


def pytorch_s(q, k, v, causal, window_size, softmax_scale, **_):
    seen = oracle.visible(q.size(1), k.size(1), causal, window_size)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=softmax_scale, enable_gqa=True)
    return out.transpose(1, 2)


@pytest.mark.points(1)
@pytest.mark.handout("forward")
def test_it_computes_what_pytorch_s_attention_computes(submission, draw):
    """The result equals PyTorch's scaled_dot_product_attention with an explicit mask."""
    q, k, v = normal(draw, queries=23, keys=37, heads=6, kv_heads=3)
    options = {"causal": True, "window_size": (20, 0), "softmax_scale": 0.5, "block_q": 8, "block_k": 16}
    got = submission.call("tiled_attention", q, k, v, grad=True, **options)
    expect(got).close_to(pytorch_s, q, k, v, **options)


@st.composite
def calls(draw):
    """Any legal call: the shapes of q, k and v, the options, the tiles."""
    bound = st.integers(-1, 20)
    return {
        "shape": {
            "batch": draw(st.integers(1, 2)),
            "queries": draw(st.integers(0, 20)),
            "keys": draw(st.integers(0, 20)),
            "kv_heads": (kv_heads := draw(st.integers(1, 2))),
            "heads": kv_heads * draw(st.integers(1, 3)),
            "width": draw(st.integers(1, 9)),
            "value_width": draw(st.integers(1, 9)),
            "scale": draw(st.sampled_from([0.1, 1.0, 5.0])),
        },
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "options": {
            "causal": draw(st.booleans()),
            "softmax_scale": draw(st.sampled_from([None, 0.3])),
            "window_size": (draw(bound), draw(bound)),
            "softcap": draw(st.sampled_from([0.0, 2.0, 30.0])),
            "block_q": draw(st.integers(1, 24)),
            "block_k": draw(st.integers(1, 24)),
        },
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.points(2)
@pytest.mark.handout("forward")
@settings(max_examples=25)
@given(call=calls())
def test_any_legal_call_is_right(submission, draw, call):
    """Lengths, heads, masks, options and tiles are right in any combination."""
    draw.generator.manual_seed(draw.seed + call["seed"])  # so that a repeated example is the same
    q, k, v = normal(draw, dtype=call["dtype"], **call["shape"])
    check(submission, None, q, k, v, **call["options"])


# --- hidden tiles ---------------------------------------------------------------------------------------------------


def with_nan(module, q, k, v, above, nan_in_q, nan_in_kv, rows, columns, options):
    """Output and gradients of some rows and columns, with NaN in others."""
    q, k, v = q.clone(), k.clone(), v.clone()
    q[:, slice(*nan_in_q)] = k[:, slice(*nan_in_kv)] = v[:, slice(*nan_in_kv)] = float("nan")
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = module.tiled_attention(*inputs, block_q=16, block_k=16, **options)
    dq, dk, dv = torch.autograd.grad(out, inputs, above)
    rows, columns = slice(*rows), slice(*columns)
    return [x.detach().clone() for x in (out[:, rows], dq[:, rows], dk[:, columns], dv[:, columns])]


def without_nan(q, k, v, above, rows, columns, options):
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (q, k, v)]
        out = oracle.attention(*inputs, **options)
        dq, dk, dv = torch.autograd.grad(out, inputs, above)
    rows, columns = slice(*rows), slice(*columns)
    return [out[:, rows], dq[:, rows], dk[:, columns], dv[:, columns]]


@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("queries", "keys", "nan_in_q", "nan_in_kv", "rows", "columns", "options"),
    [
        (64, 64, (0, 0), (32, 64), (0, 32), (0, 0), {"causal": True}),
        (64, 64, (0, 32), (0, 0), (32, 64), (32, 64), {"causal": True}),
        (32, 128, (0, 0), (0, 80), (0, 32), (0, 128), {"window_size": (16, 5)}),
        (64, 16, (0, 48), (0, 0), (0, 64), (0, 16), {"causal": True}),
        (64, 64, (0, 0), (0, 16), (32, 64), (32, 64), {"causal": True, "window_size": (16, 0)}),
    ],
    ids=["later-keys", "earlier-queries", "keys-nobody-sees", "blind-queries", "out-of-the-window"],
)
@pytest.mark.handout("tiles")
def test_nothing_comes_out_of_hidden_tiles(
    submission, draw, queries, keys, nan_in_q, nan_in_kv, rows, columns, options
):
    """Tiles in which no query sees a key are not computed: NaN in them reaches no output or gradient."""
    q, k, v = normal(draw, queries=queries, keys=keys)
    above = draw.normal(*q.shape)
    got = submission.run(with_nan, q, k, v, above, nan_in_q, nan_in_kv, rows, columns, options)
    expect(got).close_to(without_nan, q, k, v, above, rows, columns, options)


# --- what it costs --------------------------------------------------------------------------------------------------


def cost(submission, q, k, v, *, backward=True, **options):
    """A call and its cost. It has to make visible matrix products and keep little for backward."""
    got = submission.call("tiled_attention", q, k, v, grad=backward, count=True, **options)
    fused = [name for name in got.counts if "scaled_dot_product" in name or "flash" in name or "efficient_att" in name]
    expect.that(not fused, f"{', '.join(fused)} was called: it hides its tiles, but your code has to compute them")
    if backward:
        kept = max(got.counts["saved_bytes"], got.counts["held_bytes"])
        few = 4 * 4 * (q.numel() + k.numel() + v.numel() + got.output.numel())
        expect.that(
            kept <= few,
            f"{kept:,} bytes are kept for backward, more than four times the arguments and the output, {few:,} bytes: "
            "the scores of all tiles are kept instead of being recomputed",
        )
    if not options.get("causal") and "window_size" not in options:
        scores = q.size(0) * q.size(2) * q.size(1) * k.size(1)
        least = (
            (2 + 3 * backward) * 2 * scores * q.size(3)
        )  # each product takes D multiplications and additions per score
        expect.that(
            got.counts["flops"] >= 0.99 * least,
            f"only {got.counts['flops']:,} FLOPs of matrix products are visible, the tiles take at least {least:,}: "
            "the work is done by compiled code, by other operations, or not at all",
        )
    return got


def flops(submission, *inputs, **options):
    """FLOPs of the forward pass, and of the backward pass alone."""
    forward, both = (cost(submission, *inputs, backward=b, **options).counts["flops"] for b in (False, True))
    return {"forward": forward, "backward": both - forward}


@pytest.mark.points(forward=2, backward=2)
@pytest.mark.handout("cost")
def test_nothing_as_large_as_the_scores_is_made(submission, draw, part):
    """No intermediate tensor has more numbers than one tile of every head, or than the largest argument."""
    q, k, v = normal(draw, batch=1, queries=512, keys=384)
    scores, largest = 2 * 512 * 384, max(2 * 32 * 32, q.numel())
    for name in ("forward", "backward"):
        with part(name):
            got = cost(submission, q, k, v, backward=name == "backward", block_q=32, block_k=32)
            made = got.counts["largest_intermediate_numel"]
            expect.that(
                made <= 2 * largest,
                f"an intermediate tensor has {made:,} numbers; all scores are {scores:,}, "
                f"but a tile of both heads or an argument has at most {largest:,}",
            )
            expect(got).close_to(oracle.attention)


@pytest.mark.points(3)
@pytest.mark.handout("cost")
def test_what_is_kept_for_backward_grows_with_the_length(submission, draw):
    """What is kept for backward has the size of the arguments: twice as much for twice the length."""
    kept = {}
    for length in (256, 512):
        q, k, v = normal(draw, batch=1, queries=length, keys=length)
        got = cost(submission, q, k, v, block_q=32, block_k=64)
        kept[length] = max(got.counts["saved_bytes"], got.counts["held_bytes"])
        arguments = 4 * (q.numel() + k.numel() + v.numel())
        expect.that(
            kept[length] <= 3 * arguments,
            f"{kept[length]:,} bytes are kept for backward at length {length}, but q, k and v have only {arguments:,}: "
            "the scores of all tiles are kept instead of being recomputed",
        )
        made = got.counts["largest_intermediate_numel"]
        expect.that(
            made <= 2 * max(2 * 32 * 64, q.numel()),
            f"little is kept for backward, but an intermediate tensor has {made:,} numbers: more than a tile",
        )
        expect(got).close_to(oracle.attention)
    expect.that(
        kept[512] <= 2.2 * kept[256],
        f"{kept[256]:,} bytes are kept for backward at length 256, {kept[512]:,} at length 512: more than double",
    )


@pytest.mark.points(2)
@pytest.mark.parametrize("name", ["block_q", "block_k"])
@pytest.mark.handout("cost")
def test_block_sizes_set_the_size_of_the_tiles(submission, draw, name):
    """Tiles have block_q · block_k numbers: the largest intermediate tensor follows each of the two."""
    lengths = {"queries": 512, "keys": 32} if name == "block_q" else {"queries": 32, "keys": 512}
    q, k, v = normal(draw, batch=1, heads=1, width=2, **lengths)
    for size, backward in ((64, False), (128, True), (256, False)):
        tiles = {"block_q": 32, "block_k": 32, name: size}
        made = cost(submission, q, k, v, backward=backward, **tiles).counts["largest_intermediate_numel"]
        expect.that(
            32 * size <= made <= 1.5 * 32 * size,
            f"with block_q={tiles['block_q']} and block_k={tiles['block_k']} the largest intermediate tensor has "
            f"{made:,} numbers, but a tile has {32 * size:,}",
        )


@pytest.mark.points(forward=2, backward=2)
@pytest.mark.handout("cost")
def test_causal_attention_costs_little_more_than_half(submission, draw, part):
    """At 16 × 16 tiles, causal takes at most 0.6 of the FLOPs of all tiles."""
    q, k, v = normal(draw, batch=1, queries=128, keys=128)
    causal, full = (flops(submission, q, k, v, causal=causal, block_q=8, block_k=8) for causal in (True, False))
    for name in ("forward", "backward"):
        with part(name):
            expect.that(
                0 < causal[name] <= 0.6 * full[name],
                f"causal {name} takes {causal[name] / full[name]:.0%} of the FLOPs of all tiles, "
                "although 120 of the 256 tiles are hidden",
            )


@pytest.mark.points(2)
@pytest.mark.handout("cost")
def test_a_window_makes_the_cost_linear(submission, draw):
    """With a window, twice the length takes twice the FLOPs, forward and backward."""
    for causal in (True, False):
        taken = {}
        for length in (128, 256):
            q, k, v = normal(draw, batch=1, queries=length, keys=length)
            options = {"causal": causal, "window_size": (12, 12), "block_q": 8, "block_k": 8}
            taken[length] = cost(submission, q, k, v, **options).counts["flops"]
        expect.that(
            0 < taken[256] <= 2.2 * taken[128],
            f"a window of 12 takes {taken[128]:,} FLOPs at length 128 and {taken[256]:,} at length 256, more than "
            "twice as many: tiles outside the window are computed",
        )


@pytest.mark.points(3)
@pytest.mark.handout("tiles")
def test_only_tiles_with_a_visible_key_are_computed(submission, draw):
    """Tiles in which no query sees a key take no FLOPs, forward or backward, even if the lengths differ."""

    def taken(queries, keys, **options):
        q, k, v = normal(draw, batch=1, queries=queries, keys=keys)
        return cost(submission, q, k, v, block_q=16, block_k=16, **options).counts["flops"]

    a_tile = taken(64, 64) / 16
    for queries, keys, options, wanted in (
        (32, 192, {"causal": True}, 23),
        (192, 32, {"causal": True}, 3),
        (96, 96, {"window_size": (20, -1)}, 30),
        (96, 96, {"window_size": (-1, 20)}, 30),
        (96, 160, {"window_size": (0, 0)}, 6),
    ):
        tiles = taken(queries, keys, **options) / a_tile
        expect.that(
            0 < tiles <= wanted + 0.5,  # D = rowsum(dO ∘ O) may be a product too
            f"with {queries} queries, {keys} keys and {options} the FLOPs are those of {tiles:.1f} tiles of 16 × 16, "
            f"but only {wanted} of {queries * keys // 256} have a visible key",
        )


# --- FP8 ------------------------------------------------------------------------------------------------------------


def quantized(module, x, block):
    """The numbers of x8 and the scale in comparable dtypes, and the name of x8's own dtype."""
    x8, scale = module.quantize_fp8(x, block)
    return [x8.float(), scale, str(x8.dtype)]


def check_quantized(submission, x, block):
    """Each scale is its block's largest absolute value / 448, and each number of x8 is the nearest."""
    x8, scale, dtype = submission.run(quantized, x, block).output
    expect.that(dtype == "torch.float8_e4m3fn", f"x8 is {dtype}, not torch.float8_e4m3fn")
    right = oracle.fp8_scale(x.double(), block)
    for name, tensor, shape in (("x8", x8, x.shape), ("scale", scale, right.shape)):
        expect.that(tensor.shape == shape, f"{name} has shape {tuple(tensor.shape)}, not {tuple(shape)}")
    expect.that(scale.dtype == torch.float32, f"the scale is {scale.dtype}, not torch.float32")
    off = ((scale / right - 1).abs() > 1e-6).nonzero().tolist()
    expect.that(
        not off,
        f"{len(off)} of {right.numel()} scales are not the largest absolute value of their block / 448",
        expected=off and f"{right[tuple(off[0])]:.7g} at {tuple(off[0])}",
        got=off and f"{scale[tuple(off[0])]:.7g}",
    )
    exact = x.double() / right.repeat_interleave(block, 1)[:, : x.size(1), :, None]  # what x8 should round
    step = torch.exp2(exact.abs().clamp_min(2.0**-6).log2().floor() - 3)  # three bits after the leading one
    error = (x8.double() - exact).abs() / step
    expect.that(
        (error <= 0.5 + 1e-5).all(),  # false for NaN as well
        f"{int((~(error <= 0.5 + 1e-5)).sum())} of {x.numel()} numbers are not x / scale rounded to the nearest",
    )


@pytest.mark.points(1)
@pytest.mark.handout("fp8")
def test_the_worked_example_of_fp8(submission):
    """The handout's four numbers become 448, -144, 32 and 0 with scale 1/64."""
    x = torch.tensor([7.0, -2.3, 0.51, 0.0]).reshape(1, 4, 1, 1)
    x8, scale, _ = submission.run(quantized, x, 4).output
    expect.that(scale.flatten().tolist() == [1 / 64], f"the scale is {scale.flatten().tolist()}, not 7 / 448 = 1 / 64")
    expect.that(
        x8.flatten().tolist() == [448, -144, 32, 0], f"the numbers are {x8.flatten().tolist()}, not [448, -144, 32, 0]"
    )


@pytest.mark.points(2)
@pytest.mark.handout("fp8")
def test_each_block_has_a_scale_of_its_own(submission, draw):
    """Each block of positions of each head has its own scale, including the shorter last one."""
    for length, block in ((16, 4), (19, 8), (5, 64)):
        check_quantized(submission, draw.normal(2, length, 3, 8) * torch.exp(2 * draw.normal(2, length, 3, 1)), block)


@pytest.mark.points(1)
@pytest.mark.handout("fp8")
def test_blocks_of_any_magnitude_are_quantised(submission, draw):
    """Numbers about 1e-30 and 1e30, half precision, empty sequences and blocks of zeros are quantised."""
    x = draw.normal(2, 12, 2, 4) * 10.0 ** torch.tensor([-30.0, 0.0, 30.0]).repeat_interleave(4)[:, None, None]
    x[0, 4:8] = 0.0
    for each in (x, x[:, 4:8].bfloat16(), x[:, 4:8].half(), x[:, :0], x.double()):
        check_quantized(submission, each, 4)
    got = submission.call("quantize_fp8", x, 0)
    expect(got).raises(ValueError, mentioning=["block", "0"])


def error_of(answer, exact):
    """The root mean square error."""
    return (answer.double() - exact).square().mean().sqrt().item()


def fp8_errors(submission, q, k, v, **options):
    """The submission's error, and the oracle's with and without the rotation."""
    got = submission.call("fp8_attention", q, k, v, **options)
    got.require_answer()
    shape, dtype = (*q.shape[:3], v.size(3)), q.dtype
    output = got.output
    expect.that(
        output.shape == shape and output.dtype == dtype,
        "wrong shape or dtype",
        expected=f"shape {shape}, {dtype}",
        got=f"shape {tuple(output.shape)}, {output.dtype}",
    )
    expect.that(output.isfinite().all(), "there are NaN or inf in the output")
    exact_options = {name: value for name, value in options.items() if name != "block"}
    exact = oracle.attention(q.double(), k.double(), v.double(), **exact_options)
    return [
        error_of(each, exact)
        for each in (got.output, *(oracle.fp8_attention(q, k, v, **options, rotated=r) for r in (True, False)))
    ]


def about_as_exact_as_fp8(mine, theirs):
    """Also quantising the softmax's weights is allowed; not quantising at all is not."""
    expect.that(
        mine <= 2 * theirs, f"the error is {mine:.2g}, but rounding q, k and v to FP8 explains only {theirs:.2g}"
    )
    expect.that(
        mine >= 0.5 * theirs,
        f"the error is only {mine:.2g}, but rounding q, k and v to FP8 causes one of {theirs:.2g}: "
        "not all of them go through float8_e4m3fn",
    )


@pytest.mark.points(1)
@pytest.mark.parametrize("what", ["all", "scores", "values"])
@pytest.mark.handout("fp8-attention")
def test_fp8_attention_is_as_exact_as_fp8_can_be(submission, draw, what):
    """The error is that of rounding to float8_e4m3fn: of q, k and v, of q and k alone, of v alone."""
    q, k, v = normal(draw, batch=1, queries=96, keys=96, width=32)
    if what == "scores":
        v = v.sign()
    elif what == "values":
        q = q * 0
    mine, theirs, _ = fp8_errors(submission, q, k, v, block=32)
    about_as_exact_as_fp8(mine, theirs)


@pytest.mark.points(2)
@pytest.mark.handout("hadamard")
def test_the_rotation_tames_outliers(submission, draw):
    """If q and k have a channel of outliers, the Hadamard transform at least halves the error."""
    q, k, v = normal(draw, batch=1, queries=256, keys=256, width=128)
    channel = int(draw.integers(0, 128))
    q[..., channel] += 10.0
    k[..., channel] += 20.0
    mine, rotated, not_rotated = fp8_errors(submission, q, k, v)
    expect.that(
        mine <= 0.5 * not_rotated,
        f"with outliers in a channel of q and k the error is {mine:.2g}, {mine / not_rotated:.2f} times the error "
        f"without a transform; with the Hadamard transform it is {rotated / not_rotated:.2f} times",
    )
    about_as_exact_as_fp8(mine, rotated)


@pytest.mark.points(2)
@pytest.mark.handout("fp8-attention")
def test_block_scales_keep_small_blocks(submission, draw):
    """Blocks and heads with numbers 10⁸ times smaller than others' keep their digits."""
    q, k, v = normal(draw, batch=2, queries=96, keys=96, width=32)
    size = 10.0 ** torch.tensor([-4.0, 0.0, 4.0]).repeat_interleave(32)[:, None, None]  # of each block of 32
    heads = torch.tensor([1.0, 1e5])[:, None]
    q, k, v = q / size / heads, k * size * heads, v * size * heads
    got = submission.call("fp8_attention", q, k, v, causal=True, block=32)
    exact = oracle.attention(q.double(), k.double(), v.double(), causal=True)
    theirs = oracle.fp8_attention(q, k, v, causal=True, block=32)
    for block in range(3):
        for head in range(2):
            part = (slice(None), slice(32 * block, 32 * block + 32), head)
            mine, right = error_of(got.output[part], exact[part]), error_of(theirs[part], exact[part])
            expect.that(
                mine <= 3 * right,
                f"in block {block} of head {head} the error is {mine:.2g}, but only {right:.2g} with FP8 and a "
                "scale for each block of each head",
            )


@pytest.mark.points(2)
@pytest.mark.handout("fp8-attention")
def test_fp8_attention_takes_the_options_of_attention(submission, draw):
    """causal, softmax_scale, grouped heads, uneven lengths and half precision work as in tiled_attention."""
    for options, shape in (
        ({"causal": True}, {}),
        ({"softmax_scale": 0.6}, {}),
        ({}, {"heads": 4, "kv_heads": 2}),
        ({"causal": True}, {"queries": 50, "keys": 83, "value_width": 12}),
        ({}, {"dtype": "bfloat16"}),
    ):
        q, k, v = normal(draw, **{"queries": 64, "keys": 64, "width": 16} | shape)
        mine, theirs, _ = fp8_errors(submission, q, k, v, block=16, **options)
        expect.that(mine <= 2 * theirs, f"the error is {mine:.2g}, but rounding to FP8 explains only {theirs:.2g}")


@pytest.mark.points(1)
@pytest.mark.handout("hadamard")
def test_a_width_that_is_no_power_of_two_is_refused(submission, draw):
    """A head width that is not a power of two raises ValueError, which names it."""
    ordinary = submission.call("fp8_attention", *normal(draw, width=16))
    for width in (12, 96):
        got = submission.call("fp8_attention", *normal(draw, width=width))
        expect(got).raises(ValueError, mentioning=[width], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("fp8-attention")
def test_fp8_attention_is_tiled_too(submission, draw):
    """fp8_attention makes no tensor as large as the scores either."""
    q, k, v = normal(draw, batch=1, queries=256, keys=256, width=8)
    got = submission.call("fp8_attention", q, k, v, block=32, count=True)
    made = got.counts["largest_intermediate_numel"]
    expect.that(
        made <= 2 * q.numel(),
        f"an intermediate tensor has {made:,} numbers; an argument has {q.numel():,}, all scores are {2 * 256**2:,}",
    )
    exact = oracle.attention(q.double(), k.double(), v.double())
    mine, theirs = error_of(got.output, exact), error_of(oracle.fp8_attention(q, k, v, block=32), exact)
    expect.that(mine <= 2 * theirs, f"the error is {mine:.2g}, but rounding to FP8 explains only {theirs:.2g}")

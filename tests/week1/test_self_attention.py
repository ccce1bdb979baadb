"""Graded tests of week1/self_attention: first the function, from its formula to corner cases, then the module."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from grading import expect
from tests.oracles import attention as oracle

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
    "BertSelfAttention",
    "TransformerEncoderLayer",
    "TransformerDecoderLayer",
)

# --- scaled_dot_product_attention: the formula ----------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("example")
def test_the_worked_example(submission):
    """The handout's worked example is reproduced."""
    query = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    key = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    value = torch.tensor([[10.0, 0.0], [0.0, 10.0], [5.0, 5.0]])
    got = submission.call("scaled_dot_product_attention", query, key, value)
    expect(got).close_to(oracle.attention)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("formula")
def test_values_are_averaged_with_the_softmax_of_the_scaled_scores(submission, draw, part):
    """The output is softmax(Q Kᵀ / √D) V, and its gradients are right."""
    query, key, value = draw.normal(2, 3, 7, 16), draw.normal(2, 3, 7, 16), draw.normal(2, 3, 7, 16)
    with part("output"):
        expect(submission.call("scaled_dot_product_attention", query, key, value)).close_to(oracle.attention)
    with part("gradients"):
        got = submission.call("scaled_dot_product_attention", query, key, value, grad=True)
        expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.parametrize("shape", [(), (2, 2, 3)], ids=["none", "three"])
@pytest.mark.handout("formula")
def test_any_number_of_dimensions_may_stand_in_front(submission, draw, shape):
    """There may be any number of dimensions before (L, D)."""
    query, key, value = draw.normal(*shape, 5, 8), draw.normal(*shape, 5, 8), draw.normal(*shape, 5, 8)
    got = submission.call("scaled_dot_product_attention", query, key, value, grad=True)
    expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.handout("formula")
def test_lengths_and_widths_may_differ(submission, draw):
    """There may be more or fewer keys than queries, and values may have their own width."""
    for queries, keys, width, value_width in ((5, 9, 8, 3), (9, 5, 1, 4)):
        query, key = draw.normal(2, 3, queries, width), draw.normal(2, 3, keys, width)
        value = draw.normal(2, 3, keys, value_width)
        got = submission.call("scaled_dot_product_attention", query, key, value, grad=True)
        expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.parametrize("scale", [0.7, 0.0])
@pytest.mark.handout("scaling")
def test_a_scale_that_is_given_replaces_the_default(submission, draw, scale):
    """A given scale replaces 1/√D, even if it is 0."""
    query, key, value = draw.normal(2, 3, 5, 16), draw.normal(2, 3, 6, 16), draw.normal(2, 3, 6, 16)
    got = submission.call("scaled_dot_product_attention", query, key, value, scale=scale, grad=True)
    expect(got).close_to(oracle.attention)


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("masks")
def test_true_in_a_boolean_mask_means_take_part(submission, draw):
    """True in a boolean mask means that this query may attend to this key."""
    query, key, value = draw.normal(2, 3, 5, 8), draw.normal(2, 3, 7, 8), draw.normal(2, 3, 7, 8)
    got = submission.call("scaled_dot_product_attention", query, key, value, attn_mask=draw.mask(5, 7), grad=True)
    expect(got).close_to(oracle.attention)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("masks")
def test_a_floating_point_mask_is_added_to_the_scores(submission, draw, part):
    """A floating-point mask is added to the scaled scores and gets its own gradient."""
    query, key, value = draw.normal(2, 3, 5, 8), draw.normal(2, 3, 7, 8), draw.normal(2, 3, 7, 8)
    mask = draw.normal(5, 7).masked_fill(~draw.mask(5, 7), -math.inf)
    with part("output"):
        got = submission.call("scaled_dot_product_attention", query, key, value, attn_mask=mask)
        expect(got).close_to(oracle.attention)
    with part("gradients"):
        got = submission.call("scaled_dot_product_attention", query, key, value, attn_mask=mask, grad=True)
        expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.parametrize("shape", [(7,), (3, 1, 7), (2, 1, 5, 7)], ids=["1-D", "3-D", "4-D"])
@pytest.mark.handout("masks")
def test_masks_broadcast_against_the_scores(submission, draw, shape):
    """A mask of one to four dimensions is broadcast to (B, H, L, S)."""
    query, key, value = draw.normal(2, 3, 5, 8), draw.normal(2, 3, 7, 8), draw.normal(2, 3, 7, 8)
    for mask in (draw.mask(*shape), draw.normal(*shape)):
        got = submission.call("scaled_dot_product_attention", query, key, value, attn_mask=mask, grad=True)
        expect(got).close_to(oracle.attention)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("empty-rows")
def test_a_query_that_sees_no_key_gets_zero(submission, draw, part):
    """A query that sees no key gets zeros and makes no gradient NaN."""
    query, key, value = draw.normal(2, 3, 5, 8), draw.normal(2, 3, 7, 8), draw.normal(2, 3, 7, 8)
    visible = draw.mask(5, 7)
    visible[3] = False
    for mask in (visible, draw.normal(5, 7).masked_fill(~visible, -math.inf)):
        with part("output"):
            got = submission.call("scaled_dot_product_attention", query, key, value, attn_mask=mask)
            expect(got).close_to(oracle.attention)
        with part("gradients"):
            got = submission.call("scaled_dot_product_attention", query, key, value, attn_mask=mask, grad=True)
            expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (4, 7)], ids=["square", "more-keys"])
@pytest.mark.handout("causal")
def test_a_causal_query_sees_the_keys_up_to_its_own_position(submission, draw, queries, keys):
    """With is_causal, query i sees keys 0 … i, counted from the start."""
    query, key, value = draw.normal(2, 3, queries, 8), draw.normal(2, 3, keys, 8), draw.normal(2, 3, keys, 8)
    got = submission.call("scaled_dot_product_attention", query, key, value, is_causal=True, grad=True)
    expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.handout("causal")
def test_a_mask_beside_is_causal_is_refused(submission, draw):
    """attn_mask together with is_causal=True raises a ValueError."""
    query, key, value = draw.normal(2, 3, 5, 8), draw.normal(2, 3, 5, 8), draw.normal(2, 3, 5, 8)
    mask = draw.mask(5, 5)
    got = submission.call("scaled_dot_product_attention", query, key, value, attn_mask=mask, is_causal=True)
    ordinary = submission.call("scaled_dot_product_attention", query, key, value, attn_mask=mask)
    expect(got).raises(ValueError, unlike=ordinary)


# --- precision and memory -------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.handout("precision")
def test_every_dtype_is_as_accurate_as_it_can_be(submission, draw, dtype):
    """The result has the inputs' dtype and no more than its rounding error."""
    query, key, value = (draw.normal(2, 3, length, 16, dtype=dtype) for length in (9, 33, 33))
    mask = draw.normal(9, 33, dtype=dtype)
    got = submission.call("scaled_dot_product_attention", query, key, value, attn_mask=mask, grad=True)
    expect(got).close_to(oracle.attention)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("precision")
def test_large_scores_do_not_overflow(submission, draw, part):
    """Scores of ±20,000 cause no inf and no NaN."""
    query, key, value = draw.normal(2, 3, 5, 8), draw.normal(2, 3, 7, 8), draw.normal(2, 3, 7, 8)
    with part("output"):
        got = submission.call("scaled_dot_product_attention", 90 * query, 90 * key, value)
        expect(got).close_to(oracle.attention)
    with part("gradients"):
        query[..., 0], key[..., 0] = torch.tensor([4096.0, 1024.0, 0.0, -1024.0, -4096.0]), 16.0
        got = submission.call("scaled_dot_product_attention", query, key, value, grad=True)
        expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.handout("masks")
def test_hidden_keys_stay_hidden_among_very_low_scores(submission, draw):
    """A hidden key gets no weight even if every visible score is very low."""
    query, key, value = draw.normal(2, 3, 5, 8), draw.normal(2, 3, 7, 8), draw.normal(2, 3, 7, 8)
    query[..., 0], key[..., 0] = 4096, -16  # all scores about -4096 · 16 / √8 = -23170
    got = submission.call("scaled_dot_product_attention", query, key, value, attn_mask=draw.mask(5, 7), grad=True)
    expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.parametrize("layout", ["sliced", "expanded"])
@pytest.mark.handout("formula")
def test_inputs_need_not_be_contiguous(submission, draw, layout):
    """Inputs and the incoming gradient may have any memory layout."""
    if layout == "sliced":
        query, key, value = (draw.normal(2, 2 * length, 3, 16)[:, ::2, :, 4:12].transpose(1, 2) for length in (5, 7, 7))
    else:
        query, key, value = (draw.normal(2, 1, length, 8).expand(2, 3, length, 8) for length in (5, 7, 7))
    mask = draw.mask(7, 5).T
    got = submission.call(
        "scaled_dot_product_attention", query, key, value, attn_mask=mask, grad=True, cotangent="transposed"
    )
    expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.handout("formula")
def test_nothing_is_written_to_the_arguments(submission, draw):
    """The arguments are not modified, and the result has its own memory."""
    for kind in ("boolean", "floating-point"):
        query, key, value = draw.normal(2, 3, 5, 8), draw.normal(2, 3, 1, 8), draw.normal(2, 3, 1, 8)
        mask = draw.mask(5, 1) if kind == "boolean" else draw.normal(5, 1)
        got = submission.call("scaled_dot_product_attention", query, key, value, attn_mask=mask, scale=1.0)
        expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.handout("formula")
def test_an_empty_batch_gives_an_empty_result(submission, draw):
    """Without sequences, or without queries, the result is empty and has the right shape."""
    for batch, queries in ((0, 5), (2, 0)):
        query, key, value = (draw.normal(batch, 3, length, width) for length, width in ((queries, 8), (7, 8), (7, 6)))
        got = submission.call("scaled_dot_product_attention", query, key, value, attn_mask=draw.mask(queries, 7))
        expect(got).close_to(oracle.attention)


# --- dropout --------------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("dropout")
def test_dropout_zeroes_weights_and_scales_the_others_up(submission, draw, part):
    """Each weight is dropped with probability dropout_p, and the others are divided by 1 - dropout_p."""
    dropout_p = draw.choice([0.3, 0.4, 0.6])
    query, key = draw.normal(2, 4, 48, 16), draw.normal(2, 4, 64, 16)
    # The first 64 columns of the output show the weights themselves, the last two what they are used for.
    value = torch.cat([torch.eye(64).expand(2, 4, 64, 64), draw.normal(2, 4, 64, 2)], -1)

    def dropped(query, key, value, dropout_p):
        weights = oracle.attention(query, key, torch.eye(64).expand(2, 4, 64, 64).to(query))
        return (weights * kept.to(query) / (1 - dropout_p)) @ value

    dropped.dims = oracle.attention.dims
    with part("output"):
        got = submission.call("scaled_dot_product_attention", query, key, value, dropout_p=dropout_p)
        kept = got.output[..., :64] != 0
        rate = 1 - kept.double().mean().item()
        noise = 5 * math.sqrt(dropout_p * (1 - dropout_p) / kept.numel())
        expect.that(
            abs(rate - dropout_p) < noise,
            f"{rate:.1%} of the attention weights are zero, instead of dropout_p = {dropout_p:.0%}",
        )
        rows, columns = kept.flatten(0, 2), kept.transpose(-1, -2).flatten(0, 2)
        expect.that(
            len(rows.unique(dim=0)) == len(rows) and len(columns.unique(dim=0)) == len(columns),
            "queries, keys, heads or sequences drop the same weights: drop each weight independently",
        )
        expect(got).close_to(dropped)
    with part("gradients"):
        got = submission.call("scaled_dot_product_attention", query, key, value, dropout_p=dropout_p, grad=True)
        kept = got.output[..., :64] != 0
        expect.that(not kept.all(), f"no attention weight is dropped with dropout_p={dropout_p}")
        expect(got).close_to(dropped)


def calls_with_and_without_dropout(module, query, key, value):
    return [module.scaled_dot_product_attention(query, key, value, dropout_p=p) for p in (0.5, 0.5, 0.0, 0.0)]


@pytest.mark.points(1)
@pytest.mark.handout("dropout")
def test_dropout_is_drawn_anew_in_each_call(submission, draw):
    """Two calls drop different weights; without dropout they agree."""
    query, key = draw.normal(2, 3, 16, 8), draw.normal(2, 3, 16, 8)
    value = torch.eye(16).expand(2, 3, 16, 16)  # the output is the weights themselves
    first, second, *without = submission.run(calls_with_and_without_dropout, query, key, value).output
    for weights in (first, second):
        right = torch.where(weights == 0, 0, 2 * oracle.attention(query, key, value))
        expect.that(
            torch.allclose(weights, right, rtol=1e-3, atol=1e-6),
            "the weights that dropout_p=0.5 keeps are not twice those of the softmax",
        )
    expect.that(not torch.equal(first, second), "two calls with dropout_p=0.5 drop exactly the same weights")
    expect.that(torch.equal(*without), "two calls with dropout_p=0.0 differ")


# --- grouped heads --------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("grouped-heads")
def test_neighbouring_query_heads_share_a_key_and_value_head(submission, draw):
    """With enable_gqa, neighbouring query heads share one key/value head."""
    for heads, kv_heads in ((6, 2), (4, 1)):
        query = draw.normal(2, heads, 5, 8)
        key, value = draw.normal(2, kv_heads, 7, 8), draw.normal(2, kv_heads, 7, 4)
        got = submission.call("scaled_dot_product_attention", query, key, value, enable_gqa=True, grad=True)
        expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.handout("grouped-heads")
def test_grouped_heads_keep_masks_of_their_own(submission, draw):
    """With enable_gqa, each query head still has its own rows of the mask."""
    query, key, value = draw.normal(2, 6, 5, 8), draw.normal(2, 3, 7, 8), draw.normal(2, 3, 7, 8)
    got = submission.call(
        "scaled_dot_product_attention", query, key, value, attn_mask=draw.mask(2, 6, 5, 7), enable_gqa=True, grad=True
    )
    expect(got).close_to(oracle.attention)


@pytest.mark.points(1)
@pytest.mark.handout("grouped-heads")
def test_heads_that_cannot_be_shared_evenly_are_refused(submission, draw):
    """With enable_gqa, query heads that are not a multiple of the key heads raise a ValueError."""
    key, value = draw.normal(1, 3, 5, 8), draw.normal(1, 3, 5, 8)
    got, ordinary = (
        submission.call("scaled_dot_product_attention", draw.normal(1, heads, 5, 8), key, value, enable_gqa=True)
        for heads in (7, 6)
    )
    expect(got).raises(ValueError, mentioning=[7, 3], unlike=ordinary)


# --- everything at once ---------------------------------------------------------------------------------------------


def gradients_agree_with_differences(module, query, key, value, mask):
    inputs = [tensor.clone().requires_grad_() for tensor in (query, key, value, mask)]
    is_whole = module.scaled_dot_product_attention(*inputs).shape == (*query.shape[:-1], value.size(-1))
    return is_whole and torch.autograd.gradcheck(module.scaled_dot_product_attention, inputs, raise_exception=False)


@pytest.mark.points(1)
@pytest.mark.handout("empty-rows")
def test_gradients_agree_with_finite_differences(submission, draw):
    """torch.autograd.gradcheck accepts the gradients."""
    query, key, value = (draw.normal(2, length, 4, dtype="float64") for length in (3, 4, 4))
    mask = draw.normal(3, 4, dtype="float64")
    agrees = submission.run(gradients_agree_with_differences, query, key, value, mask).output
    expect.that(agrees, "the gradients disagree with finite differences of the output")


@st.composite
def calls(draw):
    """Any legal call without dropout: the shapes of query, key, value and mask, the kind of mask, the options."""
    lead = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    queries, keys = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    width, value_width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    scores = (*lead, kv_heads * groups, queries, keys)
    kept = tuple(size if draw(st.booleans()) else 1 for size in scores)
    return {
        "query": (*lead, kv_heads * groups, queries, width),
        "key": (*lead, kv_heads, keys, width),
        "value": (*lead, kv_heads, keys, value_width),
        "mask": kept[-draw(st.integers(2, len(kept))) :],
        "kind": draw(st.sampled_from(["none", "boolean", "floating-point", "causal"])),
        "options": {"enable_gqa": groups > 1, "scale": draw(st.sampled_from([None, 0.3, 2.0]))},
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.points(2)
@pytest.mark.handout("formula")
@settings(max_examples=25)
@given(call=calls())
def test_any_legal_call_is_right(submission, draw, call):
    """Shapes, masks and options in any combination."""
    draw.generator.manual_seed(draw.seed + call["seed"])  # so that a repeated example is the same
    query, key, value = (draw.normal(*call[name], dtype=call["dtype"]) for name in ("query", "key", "value"))
    options = dict(call["options"])
    if call["kind"] == "causal":
        options["is_causal"] = True
    elif call["kind"] != "none":
        visible = draw.mask(*call["mask"])
        visible[..., 1:, :] &= draw.uniform(*call["mask"][:-1], 1)[..., 1:, :] < 0.8  # some queries see no key
        bias = draw.normal(*call["mask"], dtype=call["dtype"])
        options["attn_mask"] = visible if call["kind"] == "boolean" else bias.masked_fill(~visible, -math.inf)
    got = submission.call("scaled_dot_product_attention", query, key, value, grad=True, **options)
    expect(got).close_to(oracle.attention)


# --- MultiheadAttention ---------------------------------------------------------------------------------------------


def weights_like_pytorch_s(draw, embed_dim, num_heads, bias=True, dtype="float32"):
    """A state dict of torch.nn.MultiheadAttention, filled with numbers large enough to expose mistakes."""
    state = nn.MultiheadAttention(embed_dim, num_heads, bias=bias).state_dict()
    return {name: draw.normal(*tensor.shape, dtype=dtype, scale=0.3) for name, tensor in state.items()}


@pytest.mark.points(1)
@pytest.mark.handout("multihead")
def test_the_state_dict_is_pytorch_s(submission):
    """The parameters have the names and shapes of torch.nn.MultiheadAttention's."""
    for bias in (True, False):
        state = submission.make("MultiheadAttention", 24, 4, bias=bias).state_dict().output
        theirs = nn.MultiheadAttention(24, 4, bias=bias).state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in theirs.items()}
        expect.that(shapes == expected, f"the state dict has {shapes}, torch.nn.MultiheadAttention's has {expected}")


@pytest.mark.points(1)
@pytest.mark.handout("multihead")
def test_a_new_module_is_initialised_as_pytorch_s(submission):
    """A new module has Xavier-uniform projections and zero biases."""
    state = submission.make("MultiheadAttention", 64, 4).state_dict().output
    for name, bound in (("in_proj_weight", math.sqrt(6 / (3 * 64 + 64))), ("out_proj.weight", 1 / math.sqrt(64))):
        largest, spread = state[name].abs().max().item(), state[name].std().item()
        expect.that(
            0.97 * bound < largest < 1.0001 * bound and abs(spread * math.sqrt(3) / bound - 1) < 0.05,
            f"{name} should be uniform between ±{bound:.4f}; its largest magnitude is {largest:.4f}, its standard "
            f"deviation {spread:.4f}",
        )
    for name in ("in_proj_bias", "out_proj.bias"):
        expect.that(not state[name].any(), f"{name} should start as zeros")


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("multihead")
def test_it_computes_what_pytorch_s_module_computes(submission, draw, part):
    """With a torch.nn.MultiheadAttention's weights, it returns that module's output and attention weights."""
    state, x = weights_like_pytorch_s(draw, 24, 4), draw.normal(2, 5, 24)
    made = submission.make("MultiheadAttention", 24, 4).load(state)
    with part("output"):
        expect(made.call(x, x, x)).close_to(oracle.multihead_attention, state, x, x, x, num_heads=4)
    with part("gradients"):
        expect(made.call(x, x, x, grad=True)).close_to(oracle.multihead_attention, state, x, x, x, num_heads=4)


@pytest.mark.points(1)
@pytest.mark.handout("multihead")
def test_it_computes_in_the_dtype_of_its_weights(submission, draw):
    """In float64 and bfloat16, it is as accurate as the dtype allows."""
    for dtype in ("float64", "bfloat16"):
        state, x = weights_like_pytorch_s(draw, 24, 4, dtype=dtype), draw.normal(2, 5, 24, dtype=dtype)
        mask = ~draw.mask(5, 5)
        got = submission.make("MultiheadAttention", 24, 4).to(x.dtype).load(state).call(x, x, x, attn_mask=mask)
        expect(got).close_to(oracle.multihead_attention, state, x, x, x, num_heads=4, attn_mask=mask)


@pytest.mark.points(1)
@pytest.mark.handout("multihead")
def test_queries_keys_and_values_may_come_from_different_places(submission, draw):
    """In cross-attention, query, key and value each go through their own projection."""
    state = weights_like_pytorch_s(draw, 24, 4)
    query, key, value = draw.normal(2, 5, 24), draw.normal(2, 7, 24), draw.normal(2, 7, 24)
    got = submission.make("MultiheadAttention", 24, 4).load(state).call(query, key, value, grad=True)
    expect(got).close_to(oracle.multihead_attention, state, query, key, value, num_heads=4)


@pytest.mark.points(1)
@pytest.mark.handout("multihead")
def test_it_works_without_biases(submission, draw):
    """With bias=False, nothing is added to the projections."""
    state, x = weights_like_pytorch_s(draw, 24, 3, bias=False), draw.normal(2, 5, 24)
    got = submission.make("MultiheadAttention", 24, 3, bias=False).load(state).call(x, x, x, grad=True)
    expect(got).close_to(oracle.multihead_attention, state, x, x, x, num_heads=3)


@pytest.mark.points(1)
@pytest.mark.parametrize(
    "options", [{"average_attn_weights": False}, {"need_weights": False}], ids=["per-head", "not-at-all"]
)
@pytest.mark.handout("weights")
def test_weights_come_per_head_or_not_at_all(submission, draw, options):
    """Weights are returned for each head if not averaged, and as None if not needed."""
    state, x, y = weights_like_pytorch_s(draw, 24, 4), draw.normal(2, 5, 24), draw.normal(2, 7, 24)
    got = submission.make("MultiheadAttention", 24, 4).load(state).call(x, y, y, grad=True, **options)
    expect(got).close_to(oracle.multihead_attention, state, x, y, y, num_heads=4, **options)


@pytest.mark.points(1)
@pytest.mark.parametrize("kind", ["boolean", "floating-point"])
@pytest.mark.handout("padding")
def test_padding_keys_are_ignored(submission, draw, kind):
    """key_padding_mask hides keys from all queries; here True means ignored."""
    state = weights_like_pytorch_s(draw, 24, 4)
    query, key, value = draw.normal(3, 7, 24), draw.normal(3, 7, 24), draw.normal(3, 7, 24)
    mask = torch.arange(7) >= torch.tensor([[7], [4], [1]])
    if kind == "floating-point":
        mask = draw.normal(3, 7).masked_fill(mask, -math.inf)
    got = submission.make("MultiheadAttention", 24, 4).load(state).call(query, key, value, key_padding_mask=mask)
    expect(got).close_to(oracle.multihead_attention, state, query, key, value, num_heads=4, key_padding_mask=mask)


@pytest.mark.points(1)
@pytest.mark.parametrize("shape", [(5, 7), (8, 5, 7)], ids=["2-D", "3-D"])
@pytest.mark.handout("padding")
def test_an_attention_mask_hides_keys_from_queries(submission, draw, shape):
    """attn_mask is the same for all, (L, S), or separate for each head of each sequence, (B·H, L, S)."""
    state, x, y = weights_like_pytorch_s(draw, 24, 4), draw.normal(2, 5, 24), draw.normal(2, 7, 24)
    made = submission.make("MultiheadAttention", 24, 4).load(state)
    for mask in (~draw.mask(*shape), draw.normal(*shape)):
        got = made.call(x, y, y, attn_mask=mask, average_attn_weights=False)
        expect(got).close_to(
            oracle.multihead_attention, state, x, y, y, num_heads=4, attn_mask=mask, average_attn_weights=False
        )


@pytest.mark.points(1)
@pytest.mark.handout("padding")
def test_both_masks_hide_together(submission, draw):
    """A key hidden by either mask is hidden."""
    state, x = weights_like_pytorch_s(draw, 24, 4), draw.normal(2, 6, 24)
    padding = torch.arange(6) >= torch.tensor([[4], [6]])
    causal = torch.ones(6, 6, dtype=torch.bool).triu(1)
    for kind in ("boolean", "floating-point"):
        masks = {"key_padding_mask": padding, "attn_mask": causal}
        if kind == "floating-point":
            masks = {name: draw.normal(*mask.shape).masked_fill(mask, -math.inf) for name, mask in masks.items()}
        got = submission.make("MultiheadAttention", 24, 4).load(state).call(x, x, x, grad=[x], **masks)
        expect(got).close_to(oracle.multihead_attention, state, x, x, x, num_heads=4, **masks)


@pytest.mark.points(1)
@pytest.mark.handout("multihead")
def test_one_sequence_needs_no_batch_dimension(submission, draw):
    """For inputs (L, E), the output is (L, E) and the weights are (L, S), for either batch_first."""
    state, x, y = weights_like_pytorch_s(draw, 24, 4), draw.normal(5, 24), draw.normal(7, 24)
    masks = {"key_padding_mask": torch.arange(7) >= 6, "attn_mask": torch.zeros(4, 5, 7, dtype=torch.bool)}
    masks["attn_mask"][1, :, :3] = True
    for batch_first in (True, False):
        made = submission.make("MultiheadAttention", 24, 4, batch_first=batch_first).load(state)
        expect(made.call(x, y, y, **masks)).close_to(
            oracle.multihead_attention, state, x, y, y, num_heads=4, batch_first=batch_first, **masks
        )


@pytest.mark.points(1)
@pytest.mark.handout("multihead")
def test_the_sequence_may_come_first(submission, draw):
    """With batch_first=False, tensors are (L, B, E); weights and masks keep their shapes."""
    state, x, y = weights_like_pytorch_s(draw, 24, 4), draw.normal(5, 2, 24), draw.normal(7, 2, 24)
    mask = torch.arange(7) >= torch.tensor([[4], [7]])
    made = submission.make("MultiheadAttention", 24, 4, batch_first=False).load(state)
    got = made.call(x, y, y, key_padding_mask=mask, grad=True)
    expect(got).close_to(
        oracle.multihead_attention, state, x, y, y, num_heads=4, batch_first=False, key_padding_mask=mask
    )


@pytest.mark.points(evaluation=1, training=1)
@pytest.mark.handout("dropout")
def test_the_module_drops_weights_in_training_only(submission, draw, part):
    """In training mode, weights are dropped and scaled, then applied and returned; in eval mode they are not."""
    state, x, y = weights_like_pytorch_s(draw, 24, 4), draw.normal(2, 9, 24), draw.normal(2, 11, 24)
    made = submission.make("MultiheadAttention", 24, 4, dropout=0.4).load(state)
    options = {"num_heads": 4, "average_attn_weights": False}
    with part("evaluation"):
        got = made.eval().call(x, y, y, average_attn_weights=False)
        expect(got).close_to(oracle.multihead_attention, state, x, y, y, **options)
    with part("training"):
        got = made.train().call(x, y, y, average_attn_weights=False)
        kept = got.output[1] != 0
        expect.that(0 < kept.double().mean() < 1, "no attention weight is dropped in training mode with dropout=0.4")

        def dropped(state, query, key, value, **options):
            _, weights = oracle.multihead_attention(state, query, key, value, **options)
            weights = weights * kept.to(query) / 0.6
            rows = slice(48, 72)  # of the value projection
            values = (value @ state["in_proj_weight"][rows].T + state["in_proj_bias"][rows]).unflatten(-1, (4, 6))
            heads = torch.einsum("bhls,bshd->blhd", weights, values).flatten(2)
            return heads @ state["out_proj.weight"].T + state["out_proj.bias"], weights

        dropped.dims = oracle.multihead_attention.dims
        expect(got).close_to(dropped, state, x, y, y, **options)


@pytest.mark.points(1)
@pytest.mark.handout("causal")
def test_is_causal_only_says_that_the_mask_is_causal(submission, draw):
    """is_causal with a causal attn_mask changes nothing; without attn_mask it raises a ValueError."""
    state, x, y = weights_like_pytorch_s(draw, 24, 4), draw.normal(2, 5, 24), draw.normal(2, 5, 24)
    made = submission.make("MultiheadAttention", 24, 4).load(state)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for need_weights in (True, False):
        got = made.call(x, y, y, attn_mask=mask, is_causal=True, need_weights=need_weights)
        expect(got).close_to(
            oracle.multihead_attention, state, x, y, y, num_heads=4, attn_mask=mask, need_weights=need_weights
        )
    expect(made.call(x, y, y, is_causal=True)).raises(ValueError)


@pytest.mark.points(1)
@pytest.mark.handout("multihead")
def test_a_width_that_the_heads_cannot_share_is_refused(submission, draw):
    """An embed_dim that is not a multiple of num_heads raises a ValueError."""
    x = draw.normal(2, 5, 26)
    got, ordinary = (submission.make("MultiheadAttention", 26, heads).call(x, x, x) for heads in (4, 2))
    expect(got).raises(ValueError, mentioning=[26, 4], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("multihead")
def test_the_module_takes_an_empty_batch(submission, draw):
    """For an empty batch, output and weights are empty and have the right shapes."""
    state, x = weights_like_pytorch_s(draw, 24, 4), draw.normal(0, 5, 24)
    got = submission.make("MultiheadAttention", 24, 4).load(state).call(x, x, x)
    expect(got).close_to(oracle.multihead_attention, state, x, x, x, num_heads=4)


@pytest.mark.points(1)
@pytest.mark.handout("multihead")
def test_it_computes_bert_s_self_attention(submission, draw):
    """With BERT's weights, it computes BERT's self-attention."""
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertSelfAttention

    bert = BertSelfAttention(BertConfig(hidden_size=24, num_attention_heads=4, attn_implementation="eager")).eval()
    theirs = {name: draw.normal(*tensor.shape, scale=0.3) for name, tensor in bert.state_dict().items()}
    state = {
        f"in_proj_{kind}": torch.cat([theirs[f"{x}.{kind}"] for x in ("query", "key", "value")])
        for kind in ("weight", "bias")
    }
    state |= {"out_proj.weight": draw.normal(24, 24, scale=0.3), "out_proj.bias": draw.normal(24)}
    x = draw.normal(2, 6, 24)
    padding = torch.arange(6) >= torch.tensor([[6], [3]])

    def self_attention(x, padding, theirs, weight, bias):
        mask = torch.zeros(2, 1, 1, 6, dtype=x.dtype).masked_fill(padding[:, None, None], -math.inf)
        heads, weights = torch.func.functional_call(bert, theirs, (x, mask))
        return heads @ weight.T + bias, weights

    got = (
        submission.make("MultiheadAttention", 24, 4)
        .load(state)
        .eval()
        .call(x, x, x, key_padding_mask=padding, average_attn_weights=False)
    )
    self_attention.dims = oracle.multihead_attention.dims
    expect(got).close_to(self_attention, x, padding, theirs, state["out_proj.weight"], state["out_proj.bias"])

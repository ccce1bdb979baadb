"""Graded tests of week2/flash_attention_triton: what the kernels compute, what they touch, how fast they are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from grading import expect
from tests.kernels import COMPILED, INTERPRETED, compile_for_hopper, deviations, guarded, on_memory_full_of_nan, watch
from tests.kernels import compiled_on_a_gpu as compiled_on_a_gpu
from tests.oracles import tiled_attention as oracle

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

pytestmark = [
    pytest.mark.needs("triton", "Triton runs on Linux, pip install triton"),
    pytest.mark.limit(seconds=90),
    INTERPRETED,
]


# --- inputs, and proof that kernels compute the result --------------------------------------------------------------


def normal(draw, batch=1, queries=70, keys=70, heads=2, kv_heads=None, width=16, **options):
    """q, k and v, each surrounded by NaN."""
    kv_heads = kv_heads or heads
    shapes = (batch, queries, heads, width), (batch, keys, kv_heads, width), (batch, keys, kv_heads, width)
    return tuple(guarded(draw.normal(*shape, **options)) for shape in shapes)


def named(q, k, v):
    return {"q": q, "k": k, "v": v}


def watched(submission, q, k, v, above=None, causal=False, spoil=()):
    """What the kernels did in the interpreter. Fails if they multiply nothing, or if PyTorch multiplies matrices."""
    inputs = named(*(x.cpu() for x in (q, k, v)))
    above = None if above is None else [above.cpu()]
    seen = submission.run(watch, "flash_attention", inputs, {"causal": causal}, above, spoil).output
    expect.that(seen["products"], f"no kernel computes {'the gradients' if above else 'the output'} with tl.dot")
    beginning = (x[:, :16] for x in inputs.values())
    expect_no_products(submission.call("flash_attention", *beginning, grad=above is not None, count=True))
    return seen


def expect_no_products(got):
    """Fails if PyTorch multiplies matrices. It may compute rowsum(dO ∘ O), and by an einsum."""
    flops, rowsum = got.counts["flops"], 2 * got.request.args[0].numel()
    expect.that(
        flops <= rowsum, f"PyTorch multiplies matrices ({flops:,} FLOPs): your kernels must compute all products"
    )


@pytest.fixture(scope="module")
def proven():
    """What kernels were seen to compute, False for the output and True for gradients: one look per run is enough."""
    return set()


@pytest.fixture
def prove(submission, draw, proven):
    """Fails unless kernels compute the output, or the gradients: what is computed elsewhere earns nothing."""

    def see(grad):
        if grad in proven:
            return
        x = torch.arange(256.0, device=draw.device).sin().view(1, 16, 1, 16)
        above, what = (x, "gradients") if grad else (None, "output")
        if draw.device == "cpu":
            unchanged = watched(submission, x, x, x, above, spoil=("stores", "products"))["unchanged"]
            for kind, values in (("stores", "everything your kernels store"), ("products", "every result of tl.dot")):
                expect.that(
                    not unchanged[kind],
                    f"numbers of the {what} stay the same when NaN replaces {values}: PyTorch computes them",
                )
        else:
            seen = submission.run(watch, "flash_attention", named(x, x, x), {}, [x] if grad else None)
            expect.that(seen.output["launches"], f"no Triton kernel is launched for the {what}")
            expect_no_products(submission.call("flash_attention", x, x, x, grad=grad, count=True))
        proven.add(grad)

    return see


@pytest.fixture
def attend(submission, prove):
    """Calls flash_attention, once its kernels are known to compute the result."""

    def call(q, k, v, grad=False, **options):
        prove(grad)
        return submission.call("flash_attention", q, k, v, grad=grad, **options)

    return call


def check(attend, part, q, k, v, **options):
    """Check the output of a call, then its gradients."""
    with part("output"):
        expect(attend(q, k, v, **options)).close_to(oracle.attention)
    with part("gradients"):
        expect(attend(q, k, v, grad=True, **options)).close_to(oracle.attention)


def output_and_gradients(q, k, v, above, causal):
    """The oracle's output, and its gradients if `above` is given."""
    if above is None:
        return [oracle.attention(q, k, v, causal)]
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (q, k, v)]
        out = oracle.attention(*inputs, causal)
        return [out, *torch.autograd.grad(out, inputs, above)]


@pytest.fixture
def check_written(submission, prove, part):
    """Checks the output of a call, then its gradients, where torch.empty returns NaN."""

    def check(q, k, v, above, causal=False):
        for name, gradient in (("output", None), ("gradients", above)):
            with part(name):
                prove(gradient is not None)
                options, gradients = {"causal": causal}, None if gradient is None else [gradient]
                got = submission.run(on_memory_full_of_nan, "flash_attention", named(q, k, v), options, gradients)
                expect(got).close_to(output_and_gradients, q, k, v, gradient, causal)

    return check


# --- attention ------------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("program")
def test_the_worked_example(attend, draw):
    """The handout's example: one query and four keys give 21."""
    q, k, v = (torch.zeros(1, length, 1, 16, device=draw.device) for length in (1, 4, 4))
    q[..., 0] = 1.0
    k[0, :, 0, 0] = torch.tensor([1.0, 2.0, 4.0, 1.0]).log()
    v[0, :, 0, 0] = torch.tensor([8.0, 16.0, 24.0, 32.0])
    expect(attend(q, k, v, softmax_scale=1.0)).close_to(oracle.attention)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("program")
def test_a_single_tile(attend, draw, part):
    """16 queries and 16 keys: softmax(Q Kᵀ / √D) V and its gradients."""
    check(attend, part, *normal(draw, queries=16, keys=16, heads=1))


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("program")
def test_several_heads_and_sequences(attend, draw, part):
    """Each program finds its own head and sequence: batches of 2 with 3 heads."""
    check(attend, part, *normal(draw, batch=2, queries=16, keys=32, heads=3))


@pytest.mark.points(output=1, gradients=2)
@pytest.mark.handout("forward")
def test_several_tiles(attend, draw, part):
    """256 queries and keys: several programs, each of which loops over several tiles."""
    check(attend, part, *normal(draw, queries=256, keys=256, heads=1, width=32, dtype="float16"))


@pytest.mark.points(output=1, gradients=2)
@pytest.mark.handout("memory")
def test_every_number_of_the_result_is_written(check_written, draw):
    """Every number of the output and the gradients is written: torch.empty returns NaN here."""
    q, k, v = normal(draw, queries=50, keys=70)
    check_written(q, k, v, draw.normal(*q.shape))


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("lengths", [[(33, 70), (130, 17)], [(1, 45), (45, 1), (1, 1)]], ids=["tails", "ones"])
@pytest.mark.handout("tails")
def test_lengths_that_no_tile_divides(attend, draw, part, lengths):
    """The last tile may be partial: places beyond the last key count for nothing."""
    for queries, keys in lengths:
        check(attend, part, *normal(draw, queries=queries, keys=keys, heads=1))


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("tails")
def test_widths_that_are_no_power_of_two(attend, draw, part):
    """Heads of width 8, 24 and 80, in tiles of the next power of two."""
    for width in (8, 24, 80):
        check(attend, part, *normal(draw, queries=17, keys=35, width=width))


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("forward")
def test_a_scale_that_is_given_replaces_the_default(attend, draw, part):
    """softmax_scale replaces 1/√D, even when it is 0 or negative."""
    q, k, v = normal(draw, queries=20, keys=40, heads=1)
    for scale in (0.7, 0.0, -0.4):
        check(attend, part, q, k, v, softmax_scale=scale)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("where", ["rising", "falling", "very-low"])
@pytest.mark.handout("forward")
def test_scores_far_from_the_ordinary(attend, draw, part, where):
    """The running maximum moves with every tile, or never, or all scores are about -3000."""
    q, k, v = normal(draw, queries=20, keys=150, heads=1)
    q[..., 0] = q[..., 0].abs() + 4
    steps = 0.5 * torch.arange(150.0, device=q.device)[:, None]
    k[..., 0] = {"rising": steps, "falling": -steps, "very-low": k[..., 0] / 16 - 2000}[where]
    check(attend, part, q, k, v)


@pytest.mark.points(1)
@pytest.mark.handout("tails")
def test_nothing_to_attend_with_or_to(submission, prove, draw):
    """Without sequences or queries the result is empty; without keys it is all zeros."""
    prove(True)
    for batch, queries, keys in ((0, 5, 7), (2, 0, 7), (2, 5, 0)):
        q, k, v, above = (draw.normal(batch, length, 2, 16) for length in (queries, keys, keys, queries))
        options = {"causal": True}
        got = submission.run(on_memory_full_of_nan, "flash_attention", named(q, k, v), options, [above])
        expect(got).close_to(output_and_gradients, q, k, v, above, True)


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=2)
@pytest.mark.handout("masks")
def test_a_causal_query_sees_no_later_key(attend, draw, part):
    """With causal, a query sees the keys up to its own position, across several tiles."""
    check(attend, part, *normal(draw, queries=160, keys=160, heads=1, dtype="float16"), causal=True)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("lengths", [[(20, 150), (1, 40)], [(150, 140)]], ids=["fewer-queries", "more-queries"])
@pytest.mark.handout("masks")
def test_the_last_query_stands_at_the_last_key(attend, draw, part, lengths):
    """When the lengths differ, causal is aligned bottom-right: the last query sees every key."""
    for queries, keys in lengths:
        check(attend, part, *normal(draw, queries=queries, keys=keys, heads=1, dtype="float16"), causal=True)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("lengths", [(150, 10), (60, 50)], ids=["whole-tiles", "part-of-a-tile"])
@pytest.mark.handout("masks")
def test_a_query_that_sees_no_key_gets_zero(check_written, draw, lengths):
    """A query that sees no key gets 0 and leaves no NaN in any gradient."""
    q, k, v = normal(draw, queries=lengths[0], keys=lengths[1], heads=1)
    check_written(q, k, v, draw.normal(*q.shape), causal=True)


def beginning(module, q, k, v, above, length):
    """The output and the gradient of q at the first positions."""
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = module.flash_attention(*inputs, causal=True)
    gradients = torch.autograd.grad(out, inputs, above)
    return [x[:, :length].detach().clone() for x in (out, gradients[0])]


def beginning_alone(q, k, v, above):
    """The oracle's output and gradient of q for these positions."""
    with torch.enable_grad():
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        out = oracle.attention(q, k, v, causal=True)
        return [out, torch.autograd.grad(out, q, above)[0]]


@pytest.mark.points(1)
@pytest.mark.handout("masks")
def test_nothing_comes_out_of_hidden_tiles(submission, prove, draw):
    """With causal, tiles that a query cannot see are not loaded: NaN there does not reach earlier positions."""
    prove(True)
    q, k, v = normal(draw, queries=272, keys=272, heads=1, dtype="float16")
    above = draw.normal(*q.shape, dtype="float16")
    k[:, 256:] = v[:, 256:] = math.nan
    got = submission.run(beginning, q, k, v, above, 128)
    expect(got).close_to(beginning_alone, *(x[:, :128] for x in (q, k, v, above)))


# --- heads, layouts, precision --------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("heads", [(6, 2), (3, 1)], ids=["groups", "one-key-head"])
@pytest.mark.handout("heads")
def test_neighbouring_heads_share_a_key_head(attend, draw, part, heads):
    """Head h reads key/value head h // (H / H_k), and the gradients of all heads that read it add up."""
    check(attend, part, *normal(draw, batch=2, queries=20, keys=33, heads=heads[0], kv_heads=heads[1]), causal=True)


@pytest.mark.points(1)
@pytest.mark.handout("heads")
def test_what_cannot_be_computed_is_refused(submission, draw):
    """Heads that cannot be shared evenly, and widths above 128 or not a multiple of 8, raise a ValueError."""
    ordinary = submission.call("flash_attention", *normal(draw, queries=5, keys=5, heads=6, kv_heads=3))
    got = submission.call("flash_attention", *normal(draw, queries=5, keys=5, heads=7, kv_heads=3))
    expect(got).raises(ValueError, mentioning=[7, 3], unlike=ordinary)
    for width in (20, 136):
        got = submission.call("flash_attention", *normal(draw, queries=5, keys=5, width=width))
        expect(got).raises(ValueError, mentioning=[width], unlike=ordinary)


@pytest.mark.points(output=2, gradients=2)
@pytest.mark.handout("memory")
def test_inputs_need_not_be_contiguous(attend, draw, part):
    """Inputs may have any memory layout, and so may the incoming gradient."""
    sliced = [draw.normal(1, 2, 2 * length, 48)[:, :, ::2, 5:21].transpose(1, 2) for length in (19, 29, 29)]
    expanded = [draw.normal(1, length, 1, 16).expand(2, length, 2, 16) for length in (19, 29, 29)]
    packed = draw.normal(1, 29, 3, 2, 16).unbind(2)
    turned = [draw.normal(1, 16, 2, 19).permute(0, 3, 2, 1), draw.normal(1, 2, 29, 16).transpose(1, 2), sliced[2]]
    for (q, k, v), above in zip((sliced, expanded, packed, turned), ("transposed", "expanded") * 2, strict=True):
        with part("output"):
            expect(attend(q, k, v, causal=True)).close_to(oracle.attention)
        with part("gradients"):
            expect(attend(q, k, v, grad=True, causal=True, cotangent=above)).close_to(oracle.attention)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("kind", ["ordinary", "large", "one-sign"])
@pytest.mark.handout("precision")
def test_half_precision(attend, draw, part, kind):
    """In float16, all sums are kept in float32: ordinary scores, scores of ±100, long sums of one sign."""
    q, k, v = normal(draw, queries=40, keys=270, heads=1, width=32, dtype="float16")
    scale, shift = {"ordinary": (1.0, 0.0), "large": (5.0, 0.0), "one-sign": (0.02, 8.0)}[kind]
    check(attend, part, guarded(q * scale), guarded(k * scale), guarded(v + shift))


def output_and_its_gradients(module, q, k, v, above):
    """The submission's output and gradients."""
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = module.flash_attention(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, above)]


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("precision")
def test_half_precision_is_rounded_once(submission, prove, draw, part):
    """The mean error of float16 over 2048 keys is a few roundings: of the weights, and of what is stored."""
    q, k, v = normal(draw, queries=16, keys=2048, heads=1, dtype="float16")
    above = draw.normal(*q.shape, dtype="float16")
    right = output_and_gradients(*(x.double() for x in (q, k, v, above)), False)
    prove(True)
    results = submission.run(output_and_its_gradients, q, k, v, above).output

    def check_mean(name, result, exact):
        error, once = ((x.double() - exact).abs().mean().item() for x in (result, exact.half()))
        expect.that(
            error <= 3 * once,
            f"{name}: the mean error is {error:.2g}; rounding the exact result once would give {once:.2g}. "
            "A sum, or something that the backward pass reads, is kept in float16",
        )

    with part("output"):
        check_mean("output", results[0], right[0])
    with part("gradients"):
        for name, gradient, exact in zip(("dq", "dk", "dv"), results[1:], right[1:], strict=True):
            check_mean(name, gradient, exact)


@st.composite
def calls(draw):
    """Any legal call: the shapes of q, k and v, and the options."""
    return {
        "shape": {
            "batch": draw(st.integers(1, 2)),
            "queries": draw(st.integers(1, 50)),
            "keys": draw(st.integers(1, 50)),
            "kv_heads": (kv_heads := draw(st.integers(1, 2))),
            "heads": kv_heads * draw(st.integers(1, 2)),
            "width": 8 * draw(st.integers(1, 6)),
            "scale": draw(st.sampled_from([0.1, 1.0, 3.0])),
        },
        "dtype": draw(st.sampled_from(["float32", "float16"])),
        "options": {"causal": draw(st.booleans()), "softmax_scale": draw(st.sampled_from([None, 0.3]))},
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.points(2)
@pytest.mark.handout("masks")
@settings(max_examples=10, phases=[Phase.generate])  # a smaller example would take longer to find than to read
@given(call=calls())
def test_any_legal_call_is_right(attend, draw, call):
    """Lengths, heads, widths, dtypes and options in any combination."""
    draw.generator.manual_seed(draw.seed + call["seed"])  # so that an example repeats exactly
    q, k, v = normal(draw, dtype=call["dtype"], **call["shape"])
    expect(attend(q, k, v, grad=True, **call["options"])).close_to(oracle.attention)


# --- the kernels ----------------------------------------------------------------------------------------------------


@pytest.mark.points(forward=2, backward=3)
@pytest.mark.handout("program")
@INTERPRETED
def test_the_products_are_computed_by_kernels(submission, draw, part):
    """tl.dot computes all products, forward and backward; PyTorch multiplies no matrices."""
    q, k, v = normal(draw, queries=128, keys=128, heads=1, width=32, dtype="float16")
    above = draw.normal(*q.shape, dtype="float16")
    one = 2 * q.size(1) * k.size(1) * q.size(2) * q.size(3)  # FLOPs of a product; forward has two, backward five
    for name, number, gradient in (("forward", 2, None), ("backward", 5, above)):
        with part(name):
            seen = watched(submission, q, k, v, gradient)
            expect.that(
                seen["products"] >= number * one,
                f"tl.dot computes {seen['products']:,} FLOPs in the {name} pass, whose {number} products need "
                f"{number * one:,}",
            )
            inputs = [x.cpu() for x in (q, k, v)]
            expect_no_products(submission.call("flash_attention", *inputs, grad=name == "backward", count=True))


@pytest.mark.points(forward=1, backward=1)
@pytest.mark.parametrize("shape", ["lengths", "widths", "layouts"])
@pytest.mark.handout("memory")
@INTERPRETED
def test_no_address_outside_the_tensors_is_touched(submission, draw, part, shape):
    """Loads and stores of partial tiles are masked: nothing outside a tensor is read or written."""
    if shape == "layouts":
        q, k, v = (draw.normal(2, length + 9, 3, 32)[:, 4:-5, 1:2, 8:24] for length in (21, 35, 35))
    else:
        q, k, v = normal(draw, queries=37, keys=45, width=24 if shape == "widths" else 16)
    for name, above in (("forward", None), ("backward", guarded(draw.normal(*q.shape)))):
        for causal in (False, True):
            with part(name):
                strays = watched(submission, q, k, v, above, causal)["strays"]
                expect.that(not strays, f"in the {name} pass a kernel {strays}")


@pytest.mark.points(forward=1, backward=1)
@pytest.mark.handout("masks")
@INTERPRETED
def test_hidden_tiles_cost_nothing(submission, draw, part):
    """With causal, at most 0.7 of the products are computed at length 512."""
    q, k, v = normal(draw, queries=512, keys=512, heads=1, width=16, dtype="float16")
    for name, above in (("forward", None), ("backward", draw.normal(*q.shape, dtype="float16"))):
        with part(name):
            causal = watched(submission, q, k, v, above, True)["products"]
            corner = (x if x is None else x[:, :128] for x in (q, k, v, above))  # one of 4 × 4 that are alike
            all_of_them = 16 * watched(submission, *corner)["products"]
            expect.that(
                causal <= 0.7 * all_of_them,
                f"the {name} pass takes {causal:,} FLOPs with causal and {all_of_them:,} without: skip tiles that no "
                "query sees",
            )


@pytest.mark.points(2)
@pytest.mark.handout("hopper")
@INTERPRETED
def test_tiles_are_large_enough_for_tensor_cores(submission, draw):
    """Every dimension of a tl.dot is at least 16: a GPU requires that, the interpreter does not."""
    for width, length, dtype in ((8, 5, "float16"), (8, 40, "float32"), (16, 5, "float32"), (32, 300, "float16")):
        q, k, v = normal(draw, queries=length, keys=length, heads=1, width=width, dtype=dtype)
        passes = (watched(submission, q, k, v, above, True) for above in (None, torch.ones_like(q)))
        smallest = min(seen["smallest"] for seen in passes)
        expect.that(
            smallest >= 16,
            f"at width {width} and length {length} a tl.dot has a dimension of {smallest}; a GPU needs at least 16",
        )


@pytest.mark.points(1)
@pytest.mark.handout("precision")
@INTERPRETED
def test_float32_is_multiplied_in_float32(submission, draw):
    """For float32, tl.dot's input_precision is "ieee" or "tf32x3": the default on a GPU keeps only 10 bits."""
    q, k, v = normal(draw, queries=20, keys=20, heads=1)
    for above in (None, torch.ones_like(q)):
        precisions = watched(submission, q, k, v, above)["precisions"]
        expect.that(
            set(precisions.split()) <= {"IEEE", "TF32x3", "BF16x6"},
            f"tl.dot multiplies float32 as {precisions}: on a GPU that keeps only 3 decimal digits",
        )


@pytest.mark.points(forward=1, backward=1)
@pytest.mark.handout("memory")
@INTERPRETED
def test_no_matrix_of_scores_is_made(submission, draw, part):
    """No tensor is larger than the largest argument, and little is kept for the backward pass."""
    q, k, v = normal(draw, queries=90, keys=90, heads=1)
    for name, grad in (("forward", False), ("backward", True)):
        with part(name):
            watched(submission, q, k, v, torch.ones_like(q) if grad else None)
            got = submission.call("flash_attention", *(x.cpu() for x in (q, k, v)), grad=grad, count=True)
            expect(got).counts("largest_intermediate_numel", at_most=q.numel())
            if grad:
                expect(got).counts("saved_bytes", at_most=4 * 5 * q.numel() * q.element_size())


@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("dtype", "width", "causal"),
    [("float16", 64, True), ("bfloat16", 128, False), ("float32", 24, True)],
    ids=["float16-causal", "bfloat16", "float32-causal"],
)
@pytest.mark.handout("hopper")
@COMPILED
def test_the_kernels_compile_for_hopper(submission, dtype, width, causal):
    """The kernels compile for an H100 (no GPU needed), use its tensor cores and fit into its shared memory."""
    q, k, v = (torch.ones(1, 300, heads, width, dtype=getattr(torch, dtype)) for heads in (4, 2, 2))
    compiled = submission.run(compile_for_hopper, "flash_attention", named(q, k, v), {"causal": causal}).output
    for name, products in compiled["products"].items():
        expect.that(products, f"no kernel of the {name} pass calls tl.dot")
    expect.that(
        compiled["elsewhere"] <= 2 * q.numel(), "PyTorch multiplies matrices: your kernels must compute all products"
    )
    shared = compiled["shared"]
    expect.that(shared <= 227 * 1024, f"a kernel needs {shared:,} bytes of shared memory; an H100 has 232,448")
    if dtype != "float32":
        expect.that(all(compiled["tensor cores"].values()), "the compiled code has no tensor-core instruction (mma)")


# --- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.handout("gpu")
def test_bfloat16_on_a_gpu(gpu, attend, draw, part, causal):
    """bfloat16, which the interpreter cannot multiply, at D = 64 and 128."""
    for width in (64, 128):
        check(attend, part, *normal(draw, 2, 500, 700, 4, 2, width, dtype="bfloat16"), causal=causal)


@pytest.mark.points(2)
@pytest.mark.handout("gpu")
def test_repetitions_agree(gpu, submission, draw):
    """100 repetitions agree up to the order of atomic additions: programs do not disturb each other."""
    q, k, v = normal(draw, 4, 1000, 1000, 8, 2, 64, dtype="bfloat16")
    inputs, options = named(q, k, v), {"causal": True}
    worst = submission.run(deviations, "flash_attention", inputs, options, torch.ones_like(q), 100).output
    expect.that(worst <= 0.02, f"repetitions differ by {worst:.2g} of the largest number")


def last_queries(module, q, k, v):
    """The output of the last queries and heads, in a sequence as long as k whose other queries are 0."""
    whole = q.new_zeros(1, k.size(1), q.size(2), q.size(3))
    whole[:, -q.size(1) :] = q
    return module.flash_attention(whole, k, v, causal=True)[:, -q.size(1) :, -2:].clone()


@pytest.mark.points(1)
@pytest.mark.parametrize(("length", "heads"), [(16_384, 8), (262_144, 72)], ids=["16k", "beyond-2**31-numbers"])
@pytest.mark.handout("gpu")
def test_long_sequences(gpu, submission, draw, length, heads):
    """16,384 tokens, and a tensor with more numbers than 32 bits can count."""
    q = draw.normal(1, 16, heads, 128, dtype="bfloat16")
    k, v = (draw.normal(1, length, 1, 128, dtype="bfloat16") for _ in "kv")
    got = submission.run(last_queries, q, k, v)
    expect(got).close_to(oracle.attention, q[:, :, -2:], k, v, causal=True)


@pytest.mark.points(2)
@pytest.mark.at_least("0.5x", "0.8x", of="torch")
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize(
    ("width", "causal"), [(64, True), (128, False), (128, True)], ids=["64-causal", "128", "128-causal"]
)
@pytest.mark.handout("gpu")
def test_speed_beside_flash_attention_2(gpu, speed, width, causal, backward):
    """At 4096 tokens in bfloat16: half the speed of PyTorch's FlashAttention-2, then 0.8 of it."""

    def ask(submission, draw):
        q, k, v = (draw.normal(1, 4096, 2048 // width, width, dtype="bfloat16") for _ in "qkv")
        return submission.call("flash_attention", q, k, v, causal=causal, grad=backward)

    speed(ask)

"""Graded tests of week2/selective_scan_triton: what the kernels compute, what they touch, how fast they are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grading import expect
from tests.kernels import COMPILED, INTERPRETED, compile_for_hopper, deviations, guarded, on_memory_full_of_nan, watch
from tests.kernels import compiled_on_a_gpu as compiled_on_a_gpu
from tests.oracles import selective_scan as oracle
from tests.oracles.precision import IN_FLOAT32
from tests.week1.test_selective_scan import drawn, sliced, transposed

# What the exercise asks for: a hand-in that names it is looked at by a person (grading/course/review.py).
READY_MADE = (
    "selective_scan_fn",
    "selective_scan_ref",
    "selective_scan_cuda",
    "mamba_inner_fn",
    "mamba_inner_ref",
    "selective_state_update",
    "mamba_chunk_scan_combined",
)

pytestmark = [
    pytest.mark.needs("triton", "Triton runs on Linux, pip install triton"),
    pytest.mark.limit(seconds=90),
    INTERPRETED,
]
SOFTPLUS = {"delta_softplus": True}
WITH_STATE = {"delta_softplus": True, "return_last_state": True}


def amid_nan(draw, *sizes, **forms):
    """The arguments of a scan, each surrounded by NaN."""
    return {name: guarded(x) for name, x in drawn(draw, *sizes, **forms).items()}


def watched(submission, arguments, options, above=None, spoil=()):
    """What the kernels did in the interpreter. Fails if they compute fewer exponentials than there are decays."""
    arguments = {name: None if x is None else x.cpu() for name, x in arguments.items()}
    above = None if above is None else [x.cpu() for x in above]
    seen = submission.run(watch, "selective_scan", arguments, options, above, spoil).output
    what = "the gradients are" if above else "the output is"
    expect.that(seen["launches"], f"{what} not computed by a Triton kernel: none is launched")
    least = arguments["u"].numel() * arguments["A"].size(1)
    expect.that(
        seen["exponentials"] >= least,
        f"{what} not computed by your kernels: there are {least} decays exp(Δ A) here, and your kernels computed "
        f"{seen['exponentials']} exponentials",
    )
    return seen


def prove(submission, grad, device="cpu"):
    """Fails unless kernels compute the output, or the gradients; on a GPU, unless kernels are launched."""
    ones = torch.ones(1, 2, 4, device=device)
    arguments = {"u": ones, "delta": ones, "A": -ones[0], "B": ones[:, :1].expand(1, 4, 4), "C": ones[0]}
    above = [ones] if grad else None
    if device != "cpu":
        seen = submission.run(watch, "selective_scan", arguments, {}, above).output
        expect.that(seen["launches"], "no Triton kernel is launched")
        return
    what = "gradients" if grad else "output"
    seen = watched(submission, arguments, {}, above, spoil=("stores", "exponentials"))
    expect.that(
        not seen["unchanged"]["stores"],
        f"numbers of the {what} stay the same when NaN replaces everything your kernels store: PyTorch computes them",
    )
    expect.that(
        seen["unchanged"]["exponentials"] < seen["numbers"],
        f"all numbers of the {what} stay the same when NaN replaces every exponential of your kernels",
    )


@pytest.fixture
def scan(submission, draw):
    """Calls selective_scan, once its kernels are known to compute the result: other results earn nothing."""
    proven = set()

    def call(arguments, grad=False, **options):
        if bool(grad) not in proven:
            prove(submission, bool(grad), draw.device)
            proven.add(bool(grad))
        return submission.call("selective_scan", **arguments, grad=grad, **options)

    return call


def check(scan, part, arguments, options, reference=oracle.selective_scan):
    """Check the output of a call, then its gradients."""
    with part("output"):
        expect(scan(arguments, **options)).close_to(reference)
    with part("gradients"):
        expect(scan(arguments, grad=True, **options)).close_to(reference)


# --- the recurrence -------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("program")
def test_the_worked_example(scan, draw):
    """The handout's example of three positions comes out right."""
    row = lambda *numbers: torch.tensor([[numbers]], device=draw.device)  # noqa: E731
    half = math.log(2.0)
    arguments = {"u": row(1.0, 5.0, 2.0), "delta": row(half, 0.0, half), "A": row(-1.0)[0]}
    arguments |= {"B": row(1.0, 1.0, 1.0), "C": row(1.0, 1.0, 2.0)}
    expect(scan(arguments, return_last_state=True)).close_to(oracle.selective_scan_and_state)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("program")
def test_matrices_of_each_position(scan, draw, part):
    """B and C of shape (b, n, l), one tile, two sequences: the simplest scan."""
    arguments = amid_nan(draw, 2, 4, 8, 4, without=("D", "z", "delta_bias"))
    arguments["delta"] = arguments["delta"].abs()
    check(scan, part, arguments, {})


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("lengths", [[1, 2], [7, 33], [64, 130]], ids=["ones", "tails", "long"])
@pytest.mark.handout("tiles")
def test_any_length(scan, draw, part, lengths):
    """Sequences of one position, of many tiles, and with a partial last tile."""
    for length in lengths:
        arguments = amid_nan(draw, 1, 3, length, 2)
        arguments["A"] = arguments["A"] / 8
        check(scan, part, arguments, WITH_STATE, oracle.selective_scan_and_state)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("tiles")
def test_channels_and_states_that_no_tile_divides(scan, draw, part):
    """5, 17 and 19 channels, with states of 3, 1 and 5 numbers: no tile divides them."""
    for channels, states in ((5, 3), (17, 1), (19, 5)):
        check(scan, part, amid_nan(draw, 1, channels, 5, states), WITH_STATE, oracle.selective_scan_and_state)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("matrices")
def test_constant_matrices(scan, draw, part):
    """B and C of shape (d, n): the same at all positions."""
    arguments = amid_nan(draw, 2, 3, 20, 3, B="constant", C="constant", without=("D", "z", "delta_bias"))
    arguments["delta"] = arguments["delta"].abs()
    check(scan, part, arguments, {})


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("matrices")
def test_neighbouring_channels_share_a_group(scan, draw, part):
    """B and C of shape (b, g, n, l) hold one matrix for each group of neighbouring channels."""
    for batch, channels, groups in ((2, 6, 2), (1, 18, 2)):
        check(scan, part, amid_nan(draw, batch, channels, 5, 2, B=groups, C=groups), SOFTPLUS)


@pytest.mark.points(output=1, gradients=2)
@pytest.mark.handout("matrices")
def test_B_and_C_may_differ_in_form(scan, draw, part):
    """B and C may differ in form, including the number of groups."""
    for B, C in ((1, 6), (2, 3), (3, "token"), ("constant", 2), ("token", "constant")):
        check(scan, part, amid_nan(draw, 2, 6, 5, 2, B=B, C=C), {})


@pytest.mark.points(1)
@pytest.mark.handout("matrices")
def test_a_B_or_C_that_does_not_fit_is_refused(submission, draw):
    """A wrong shape of B or C, and groups that do not divide the channels, raise a ValueError that names it."""
    for matrix in ("B", "C"):
        arguments = amid_nan(draw, 2, 6, 9, 3)
        ordinary = submission.call("selective_scan", **arguments)
        for shape in ((2, 4, 3, 9), (2, 1, 9), (2, 3, 8), (6, 1)):
            got = submission.call("selective_scan", **arguments | {matrix: draw.normal(*shape)})
            expect(got).raises(ValueError, mentioning=[matrix, 6, *shape], unlike=ordinary)


# --- Δ, D, z and the last state -------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("step-size")
def test_the_bias_is_added_before_the_softplus(scan, draw, part):
    """Δ is softplus(delta + delta_bias)."""
    check(scan, part, amid_nan(draw, 2, 4, 9, 3, without=("D", "z")), SOFTPLUS)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("step-size")
def test_steps_may_be_large_and_small(scan, draw, part):
    """delta may be ±200, and small steps are as precise as large ones: delta from -16 to -8."""
    arguments = amid_nan(draw, 2, 4, 9, 3, without=("delta_bias",))
    arguments["delta"][..., ::3], arguments["delta"][..., 1::3] = 200.0, -200.0
    check(scan, part, arguments, SOFTPLUS)
    arguments = amid_nan(draw, 2, 4, 9, 3, without=("delta_bias", "D"))
    arguments["delta"] = guarded(draw.uniform(2, 4, 9, low=-16.0, high=-8.0))
    check(scan, part, arguments, SOFTPLUS)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("step-size")
def test_without_softplus_steps_may_be_negative(scan, draw, part):
    """Without delta_softplus, Δ is delta + delta_bias and may be negative."""
    check(scan, part, amid_nan(draw, 2, 4, 9, 3, without=("D", "z")), {})


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("gate")
def test_the_skip_is_added_before_the_gate(scan, draw, part):
    """out = (y + D u) silu(z)."""
    check(scan, part, amid_nan(draw, 2, 4, 20, 3), SOFTPLUS)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("gate")
def test_each_of_D_z_and_delta_bias_may_be_absent(scan, draw, part):
    """D, z and delta_bias may each be omitted or None."""
    for without in (("D",), ("z",), ("delta_bias",), ("D", "z"), ("D", "z", "delta_bias")):
        arguments = amid_nan(draw, 1, 3, 6, 2, without=without)
        with part("output"):
            got = scan({**arguments, **dict.fromkeys(without)}, **SOFTPLUS)
            expect(got).close_to(oracle.selective_scan)
        with part("gradients"):
            expect(scan(arguments, grad=True, **SOFTPLUS)).close_to(oracle.selective_scan)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("last-state")
def test_the_last_state_is_returned_when_asked_for(scan, draw, part):
    """With return_last_state, the last position's state is returned too, and gradients flow from both results."""
    for length in (10, 40):
        arguments = amid_nan(draw, 2, 4, length, 3, B=2)
        check(scan, part, arguments, WITH_STATE, oracle.selective_scan_and_state)


# --- extreme numbers, dtypes, layouts, sizes ------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("precision")
def test_states_may_be_forgotten_at_once(scan, draw, part):
    """Δ A may range from nearly 0 to below -10⁴: what is forgotten is 0, and nothing becomes inf or NaN."""
    arguments = amid_nan(draw, 2, 3, 70, 3)
    extremes = torch.tensor([[1e-3, 1.0, 1e4], [30.0, 100.0, 300.0], [1e4, 1e-2, 3.0]], device=draw.device)
    check(scan, part, arguments | {"A": guarded(-extremes)}, SOFTPLUS)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("precision")
def test_states_may_be_kept_for_long(scan, draw, part):
    """With Δ A near 0, the last position still depends on the first."""
    arguments = amid_nan(draw, 1, 3, 200, 2, without=("z",))
    arguments["A"], arguments["u"] = guarded(arguments["A"] / 1000), guarded(arguments["u"].abs())
    with part("output"):
        expect(scan(arguments, **SOFTPLUS)).close_to(oracle.selective_scan)
    with part("gradients"):
        got = scan(arguments, grad=[arguments["delta"], arguments["B"]], **SOFTPLUS)
        expect(got).close_to(oracle.selective_scan)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("precision")
def test_the_output_has_the_dtype_of_u(scan, draw, part):
    """The output has the dtype of u, float16 or float64; the state is float32 for half precision."""
    for dtype, factor, dtypes in (
        ("float16", None, [torch.float16, torch.float32]),
        ("float64", IN_FLOAT32, [torch.float64, None]),
    ):
        arguments = amid_nan(draw, 2, 4, 9, 3, dtype=dtype)
        for name, grad in (("output", False), ("gradients", True)):
            with part(name):
                got = scan(arguments, grad=grad, **WITH_STATE)
                expect(got).close_to(
                    oracle.selective_scan_and_state, **arguments, **WITH_STATE, factor=factor, dtypes=dtypes
                )


def in_half_precision_and_in_float32(module, arguments, above):
    """The output and the gradients by name, of the arguments as they are and then of the same numbers in float32."""
    results = []
    for wide in (False, True):
        leaves = {key: (x.float() if wide else x).clone().requires_grad_() for key, x in arguments.items()}
        out = module.selective_scan(**leaves, delta_softplus=True)
        gradients = torch.autograd.grad(out, list(leaves.values()), above.to(out.dtype))
        results.append({"output": out} | {f"gradient of {key}": x for key, x in zip(leaves, gradients, strict=True)})
    return results


@pytest.mark.points(2)
@pytest.mark.handout("precision")
def test_half_precision_is_only_what_goes_in_and_comes_out(submission, draw):
    """In float16 the result is float32's, rounded: states, and sums over positions and channels, are float32."""
    prove(submission, True, draw.device)
    arguments = amid_nan(draw, 1, 4, 200, 2, dtype="float16")
    arguments["A"] = arguments["A"] / 2000
    arguments |= {key: guarded(arguments[key].abs() / 4 + 0.1) for key in ("u", "B", "C")}  # so that states only grow
    above = draw.normal(*arguments["u"].shape, dtype="float16")
    half, wide = submission.run(in_half_precision_and_in_float32, arguments, above).output
    for key in wide:
        error, size = (half[key].float() - wide[key]).abs().max(), wide[key].abs().max()
        rounding = size * torch.finfo(torch.float16).eps / 2
        expect.that(
            error <= 4 * rounding,
            f"{key}, as large as {size:.2g}, differs by {error:.2g} from the result of the same numbers in float32; "
            f"rounding to float16 explains {rounding:.1g}",
        )


@pytest.mark.points(output=1, gradients=2)
@pytest.mark.handout("memory")
def test_arguments_need_not_be_contiguous(scan, draw, part):
    """Arguments may have any memory layout, and so may the incoming gradient."""
    for layout, above in ((sliced, "transposed"), (transposed, "expanded")):
        arguments = {key: layout(each) for key, each in drawn(draw, length=11, C=2).items()}
        arguments["u"] = arguments["u"][:1].expand(2, -1, -1)
        with part("output"):
            expect(scan(arguments, **SOFTPLUS)).close_to(oracle.selective_scan)
        with part("gradients"):
            got = scan(arguments, grad=True, cotangent=above, **SOFTPLUS)
            expect(got).close_to(oracle.selective_scan)


@pytest.mark.points(1)
@pytest.mark.handout("tiles")
def test_the_batch_may_be_empty(scan, draw):
    """A batch of no sequences has an empty output and state; three sequences are computed like one."""
    for batch in (3, 0):
        arguments = drawn(draw, batch, B=2)
        expect(scan(arguments, **WITH_STATE)).close_to(oracle.selective_scan_and_state)


@st.composite
def calls(draw):
    """Any legal call: sizes, forms of B and C, omitted arguments, options."""
    groups, others = draw(st.sampled_from([(1, 2), (2, 4), (3, 2), (2, 2)]))
    form = st.sampled_from(["constant", "token", groups, others])
    return {
        "drawn": {
            "batch": draw(st.integers(1, 2)),
            "channels": math.lcm(groups, others) * draw(st.integers(1, 2)),
            "length": draw(st.integers(1, 40)),
            "states": draw(st.integers(1, 4)),
            "B": draw(form),
            "C": draw(form),
            "without": tuple(draw(st.sets(st.sampled_from(["D", "z", "delta_bias"])))),
        },
        "delta_softplus": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.points(2)
@pytest.mark.handout("matrices")
@settings(max_examples=10)
@given(call=calls())
def test_any_legal_call_is_right(scan, draw, call):
    """Sizes, forms and options in any combination."""
    draw.generator.manual_seed(draw.seed + call["seed"])  # so that an example repeats exactly
    arguments = amid_nan(draw, **call["drawn"])
    large = [arguments[name] for name in ("u", "delta", "B", "C")]
    options = {"delta_softplus": call["delta_softplus"], "return_last_state": True}
    expect(scan(arguments, grad=large, **options)).close_to(oracle.selective_scan_and_state)


# --- the kernels ----------------------------------------------------------------------------------------------------


@pytest.mark.points(forward=2, backward=3)
@pytest.mark.handout("program")
@INTERPRETED
def test_the_scan_is_computed_by_kernels(submission, draw, part):
    """Kernels compute all decays, forward and backward; PyTorch does no more operations for longer sequences."""
    for name, grad in (("forward", False), ("backward", True)):
        with part(name):
            prove(submission, grad)
            operations = []
            for length in (8, 64):
                arguments = {key: x.cpu() for key, x in amid_nan(draw, 1, 4, length, 4, B="constant").items()}
                watched(submission, arguments, SOFTPLUS, [torch.ones_like(arguments["u"])] if grad else None)
                got = submission.call("selective_scan", **arguments, **SOFTPLUS, grad=grad, count=True)
                operations.append(got.counts["ops"])
            expect.that(
                operations[1] <= 1.2 * operations[0],
                f"PyTorch does {operations[0]} operations for 8 positions and {operations[1]} for 64, forward"
                f"{' and backward' if grad else ''}: your kernels must do the scan",
            )


SHAPES = {
    "tails": {"batch": 2, "channels": 5, "length": 21, "states": 3},
    "groups": {"batch": 2, "channels": 6, "length": 9, "states": 2, "B": 2, "C": 3},
    "constant": {"batch": 2, "channels": 3, "length": 9, "states": 3, "B": "constant", "C": "constant"},
}


@pytest.mark.points(forward=1, backward=1)
@pytest.mark.parametrize("shape", ["tails", "groups", "constant"])
@pytest.mark.handout("memory")
@INTERPRETED
def test_no_address_outside_the_tensors_is_touched(submission, draw, part, shape):
    """Loads and stores of partial tiles are masked: nothing outside a tensor is read or written."""
    arguments = amid_nan(draw, **SHAPES[shape])
    for name, above in (("forward", None), ("backward", [guarded(draw.normal(*arguments["u"].shape))])):
        with part(name):
            prove(submission, above is not None)
            strays = watched(submission, arguments, SOFTPLUS, above)["strays"]
            expect.that(not strays, f"in the {name} pass a kernel {strays}")


def results_and_gradients(u, delta, A, B, C, D, z, delta_bias, above):
    """The oracle's output and last state, and their gradients if `above` is given."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (u, delta, A, B, C, D, z, delta_bias)]
        results = oracle.selective_scan_and_state(*leaves, delta_softplus=True)
        return [*results, *(torch.autograd.grad(results, leaves, above) if above else ())]


@pytest.mark.points(output=1, gradients=2)
@pytest.mark.handout("memory")
def test_every_number_of_the_result_is_written(submission, draw, part):
    """Every number of the output, the state and the gradients is written: torch.empty returns NaN here."""
    for shape in SHAPES.values():
        arguments = amid_nan(draw, **shape)
        state = draw.normal(shape["batch"], shape["channels"], shape["states"])
        above = [draw.normal(*arguments["u"].shape), state]
        for name, gradient in (("output", None), ("gradients", above)):
            with part(name):
                prove(submission, gradient is not None, draw.device)
                got = submission.run(on_memory_full_of_nan, "selective_scan", arguments, WITH_STATE, gradient)
                expect(got).close_to(results_and_gradients, **arguments, above=gradient)


@pytest.mark.points(forward=1, backward=1, kept=1)
@pytest.mark.handout("recompute")
def test_the_states_are_never_in_memory(scan, draw, part):
    """No tensor has half of b·d·l·n numbers, and all that is kept for the backward pass has at most b·d·l·n."""
    arguments = amid_nan(draw, 1, 8, 128, 16)
    numbers = 8 * 128 * 16
    for name, grad in (("forward", False), ("backward", True)):
        with part(name):
            got = scan(arguments, grad=grad, count=True, **SOFTPLUS)
            expect(got).counts("largest_intermediate_numel", at_most=numbers / 2 - 1)
    with part("kept"):
        got = scan(arguments, grad=True, count=True, **SOFTPLUS)
        expect(got).counts("saved_bytes", at_most=4 * numbers)
        expect(got).counts("held_bytes", at_most=4 * numbers)


@pytest.mark.points(2)
@pytest.mark.parametrize(
    ("dtype", "form", "length"),
    [("bfloat16", "token", 256), ("float16", 2, 300), ("float32", "constant", 45)],
    ids=["bfloat16", "float16-groups", "float32-constant"],
)
@pytest.mark.handout("hopper")
@COMPILED
def test_the_kernels_compile_for_hopper(submission, draw, dtype, form, length):
    """The kernels compile for an H100 (no GPU needed) and fit into its shared memory."""
    without = ("delta_bias", "z") if form == "constant" else ()
    arguments = drawn(draw, 1, 64, length, 16, B=form, C=form, dtype=dtype, without=without)
    arguments = {name: x.cpu() * (name != "D") for name, x in arguments.items()}
    compiled = submission.run(compile_for_hopper, "selective_scan", arguments, SOFTPLUS).output
    for name in ("forward", "backward"):
        expect.that(compiled["launches"][name], f"the {name} pass launches no kernel")
    expect.that(
        compiled["numbers"] == 0, "there is an output although no kernel ran: PyTorch computes at least part of it"
    )
    shared = compiled["shared"]
    expect.that(shared <= 227 * 1024, f"a kernel needs {shared:,} bytes of shared memory; an H100 has 232,448")


# --- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.parametrize("length", [512, 333])
@pytest.mark.handout("gpu")
def test_bfloat16_on_a_gpu(gpu, scan, draw, part, length):
    """bfloat16, which the interpreter cannot add or multiply, with states of 16 numbers."""
    arguments = amid_nan(draw, 1, 3, length, 16, dtype="bfloat16")
    check(scan, part, arguments, SOFTPLUS)


@pytest.mark.points(2)
@pytest.mark.handout("gpu")
def test_repetitions_agree(gpu, submission, draw):
    """100 repetitions agree up to the order of atomic additions: programs do not disturb each other."""
    arguments = amid_nan(draw, 4, 512, 1000, 16, dtype="bfloat16")
    above = torch.ones_like(arguments["u"])
    worst = submission.run(deviations, "selective_scan", arguments, SOFTPLUS, above, 100).output
    expect.that(worst <= 0.02, f"repetitions differ by {worst:.2g} of the largest number")


def last_positions(module, arguments, length):
    """The output of the first two and last two channels at the end of a sequence that is 0 before these positions."""
    positions = arguments["u"].size(-1)
    whole = {}
    for name, x in arguments.items():
        whole[name] = x.new_zeros(*x.shape[:-1], length) if name in ("u", "delta", "B", "C") else x
        if name in ("u", "delta", "B", "C"):
            whole[name][..., -positions:] = x
    out = module.selective_scan(**whole)[..., -positions:]
    return torch.cat([out[:, :2], out[:, -2:]], 1)


@pytest.mark.points(1)
@pytest.mark.parametrize(("length", "channels"), [(16_384, 64), (1_100_000, 2048)], ids=["16k", "beyond-2**31-numbers"])
@pytest.mark.handout("gpu")
def test_long_sequences(gpu, submission, draw, length, channels):
    """16,384 positions, and a tensor with more numbers than 32 bits can count."""
    arguments = drawn(draw, 1, channels, 40, 1, dtype="bfloat16", without=("D", "z", "delta_bias"))
    arguments["delta"] = arguments["delta"].abs()
    got = submission.run(last_positions, arguments, length)
    both_ends = {
        name: torch.cat([x[..., :2, :], x[..., -2:, :]], -2) if name in ("u", "delta", "A") else x
        for name, x in arguments.items()
    }
    expect(got).close_to(oracle.selective_scan, **both_ends)


@pytest.mark.points(2)
@pytest.mark.at_least("0.5x", "0.8x", of=("mamba_ssm", "torch"))
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("length", [2048, 16_384])
@pytest.mark.handout("gpu")
def test_speed_beside_mamba_ssm(gpu, speed, length, backward):
    """2048 channels in bfloat16: half the speed of mamba-ssm's CUDA kernel, then 0.8 of it."""

    def ask(submission, draw):
        arguments = drawn(draw, 1, 2048, length, 16, dtype="bfloat16")
        return submission.call("selective_scan", **arguments, **SOFTPLUS, grad=backward)

    speed(ask)

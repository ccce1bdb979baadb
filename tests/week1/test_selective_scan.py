"""Graded tests of week1/selective_scan: the scan, step by step and in chunks, a single step, the convolution."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grading import expect
from tests.oracles import selective_scan as oracle
from tests.oracles.precision import IN_FLOAT32

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


def drawn(draw, batch=2, channels=4, length=9, states=3, B="token", C="token", dtype="float32", without=()):
    """Arguments of a scan: B and C "constant", per "token", or a number of groups; A, D and delta_bias in float32."""
    forms = {"constant": (channels, states), "token": (batch, states, length)}
    wide = "float64" if dtype == "float64" else "float32"
    arguments = {
        "u": draw.normal(batch, channels, length, dtype=dtype),
        "delta": draw.normal(batch, channels, length, dtype=dtype),
        "A": -draw.uniform(channels, states, low=0.1, high=2.0, dtype=wide),
        "B": draw.normal(*forms.get(B, (batch, B, states, length)), dtype=dtype),
        "C": draw.normal(*forms.get(C, (batch, C, states, length)), dtype=dtype),
        "D": draw.normal(channels, dtype=wide),
        "z": draw.normal(batch, channels, length, dtype=dtype),
        "delta_bias": draw.normal(channels, dtype=wide, scale=0.5),
    }
    return {name: tensor for name, tensor in arguments.items() if name not in without}


def check_output(submission, name, arguments, **options):
    got = submission.call(name, **arguments, **options)
    expect(got).close_to(oracle.selective_scan)


def check_gradients(submission, name, arguments, **options):
    got = submission.call(name, **arguments, **options, grad=True)
    expect(got).close_to(oracle.selective_scan)


def sliced(tensor):
    """The same numbers, at every other place of a larger memory."""
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


def transposed(tensor):
    """The same numbers, with the first dimension varying fastest in memory."""
    return tensor.permute(*reversed(range(tensor.dim()))).contiguous().permute(*reversed(range(tensor.dim())))


both = pytest.mark.parametrize("name", ["selective_scan", "selective_scan_chunked"])

# --- the recurrence -------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("example")
def test_the_worked_example(submission):
    """The handout's worked example is reproduced."""
    row = lambda *numbers: torch.tensor([[numbers]])  # noqa: E731
    half = math.log(2.0)
    arguments = {"u": row(1.0, 5.0, 2.0), "delta": row(half, 0.0, half), "A": torch.tensor([[-1.0]])}
    arguments |= {"B": row(1.0, 1.0, 1.0), "C": row(1.0, 1.0, 2.0)}
    got = submission.call("selective_scan", **arguments, return_last_state=True)
    expect(got).close_to(oracle.selective_scan_and_state)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("recurrence")
def test_constant_matrices(submission, draw, part):
    """With B and C the same at all positions, (d, n), it is the state space model that preceded Mamba."""
    arguments = drawn(draw, B="constant", C="constant", without=("D", "z", "delta_bias"))
    arguments["delta"] = arguments["delta"].abs()
    with part("output"):
        check_output(submission, "selective_scan", arguments)
    with part("gradients"):
        check_gradients(submission, "selective_scan", arguments)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("selective")
def test_matrices_of_each_position(submission, draw, part):
    """B and C of shape (b, n, l) differ by position and are shared by all channels."""
    arguments = drawn(draw, without=("D", "z", "delta_bias"))
    arguments["delta"] = arguments["delta"].abs()
    with part("output"):
        check_output(submission, "selective_scan", arguments)
    with part("gradients"):
        check_gradients(submission, "selective_scan", arguments)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("groups")
def test_neighbouring_channels_share_a_group(submission, draw, part):
    """B and C of shape (b, g, n, l) have one matrix for each group of neighbouring channels."""
    arguments = drawn(draw, channels=6, B=2, C=2)
    with part("output"):
        check_output(submission, "selective_scan", arguments)
    with part("gradients"):
        check_gradients(submission, "selective_scan", arguments)


@pytest.mark.points(1)
@pytest.mark.handout("groups")
def test_B_and_C_may_differ_in_form(submission, draw):
    """B and C may have different forms, including different numbers of groups."""
    for B, C in ((1, 6), (2, 3), (3, "token"), ("constant", 2), ("token", "constant")):
        check_gradients(submission, "selective_scan", drawn(draw, channels=6, B=B, C=C))


@pytest.mark.points(1)
@both
@pytest.mark.handout("groups")
def test_a_B_or_C_that_does_not_fit_is_refused(submission, draw, name):
    """A B or C of the wrong shape, or with groups that don't divide the channels, raises a ValueError naming it."""
    for matrix in ("B", "C"):
        arguments = drawn(draw, channels=6, length=9)
        ordinary = submission.call(name, **arguments)
        for shape in ((2, 4, 3, 9), (2, 1, 9), (2, 3, 8), (6, 1)):
            got = submission.call(name, **arguments | {matrix: draw.normal(*shape)})
            expect(got).raises(ValueError, mentioning=[matrix, 6, *shape], unlike=ordinary)


# --- Δ, D and z -----------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("step-size")
def test_the_bias_is_added_before_the_softplus(submission, draw, part):
    """Δ is softplus(delta + delta_bias)."""
    arguments = drawn(draw, without=("D", "z"))
    with part("output"):
        check_output(submission, "selective_scan", arguments, delta_softplus=True)
    with part("gradients"):
        check_gradients(submission, "selective_scan", arguments, delta_softplus=True)


@pytest.mark.points(1)
@both
@pytest.mark.handout("step-size")
def test_the_softplus_does_not_overflow(submission, draw, name):
    """delta may be 200 or -200: log(1 + exp(delta)) is then about delta, or about 0."""
    arguments = drawn(draw, without=("delta_bias",))
    arguments["delta"][..., ::3], arguments["delta"][..., 1::3] = 200.0, -200.0
    check_output(submission, name, arguments, delta_softplus=True)
    check_gradients(submission, name, arguments, delta_softplus=True)


@pytest.mark.points(1)
@pytest.mark.handout("step-size")
def test_without_softplus_steps_may_be_negative(submission, draw):
    """Without delta_softplus, Δ is delta + delta_bias, including negative steps."""
    check_gradients(submission, "selective_scan", drawn(draw, without=("D", "z")))


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("gate")
def test_the_skip_is_added_before_the_gate(submission, draw, part):
    """out = (y + D u) silu(z): the skip comes before the gate."""
    arguments = drawn(draw)
    with part("output"):
        check_output(submission, "selective_scan", arguments, delta_softplus=True)
    with part("gradients"):
        check_gradients(submission, "selective_scan", arguments, delta_softplus=True)


@pytest.mark.points(1)
@both
@pytest.mark.handout("gate")
def test_each_of_D_z_and_delta_bias_may_be_absent(submission, draw, name):
    """D, z and delta_bias are each left out if missing or None."""
    for without in (("D",), ("z",), ("delta_bias",), ("D", "z"), ("D", "z", "delta_bias")):
        arguments = drawn(draw, without=without)
        check_gradients(submission, name, arguments, delta_softplus=True)
        check_output(submission, name, {**arguments, **dict.fromkeys(without)})


# --- the last state -------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@both
@pytest.mark.handout("last-state")
def test_the_last_state_is_returned_when_asked_for(submission, draw, name):
    """With return_last_state, the state after the last position is returned too; gradients flow from both."""
    arguments = drawn(draw, length=10, B=2)
    options = {"delta_softplus": True, "return_last_state": True}
    options |= {"chunk_size": 4} if name == "selective_scan_chunked" else {}
    expect(submission.call(name, **arguments, **options)).close_to(oracle.selective_scan_and_state)
    expect(submission.call(name, **arguments, **options, grad=True)).close_to(oracle.selective_scan_and_state)


# --- by chunks ------------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("chunks")
def test_chunks_change_nothing(submission, draw, part):
    """selective_scan_chunked returns the same as selective_scan."""
    arguments = drawn(draw, length=20)
    with part("output"):
        check_output(submission, "selective_scan_chunked", arguments, delta_softplus=True, chunk_size=5)
    with part("gradients"):
        check_gradients(submission, "selective_scan_chunked", arguments, delta_softplus=True, chunk_size=5)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("chunks")
def test_chunks_change_nothing_for_other_forms_of_B_and_C(submission, draw, part):
    """It also does so if B and C are constant or in groups, and if Δ is negative."""
    for B, C in (("constant", "constant"), (2, 2), (2, 3), (3, "token"), ("constant", 2), ("token", "constant")):
        arguments = drawn(draw, channels=6, length=8, B=B, C=C)
        with part("output"):
            check_output(submission, "selective_scan_chunked", arguments, chunk_size=3)
        with part("gradients"):
            check_gradients(submission, "selective_scan_chunked", arguments, chunk_size=3)


SIZES = {
    "short": [(1, 1), (1, 64), (2, 3), (7, 1), (7, 3), (7, 64)],
    "about a chunk": [(63, 64), (64, 64), (65, 64)],
    "many chunks": [(65, 16), (128, 50), (372, 64)],
}


@pytest.mark.points(1)
@pytest.mark.parametrize("sizes", ["short", "about a chunk", "many chunks"])
@pytest.mark.handout("chunks")
def test_any_length_goes_with_any_chunk_size(submission, draw, sizes):
    """The last chunk may be shorter than the others, or the only one."""
    for length, chunk_size in SIZES[sizes]:
        arguments = drawn(draw, 1, 3, length, 2)
        arguments["A"] = arguments["A"] / 8
        options = {"delta_softplus": True, "chunk_size": chunk_size, "return_last_state": True}
        large = [arguments[name] for name in ("u", "delta", "B", "C", "z")]
        got = submission.call("selective_scan_chunked", **arguments, **options, grad=large)
        expect(got).close_to(oracle.selective_scan_and_state)


@pytest.mark.points(1)
@pytest.mark.handout("chunks")
def test_a_chunk_holds_at_least_one_position(submission, draw):
    """A chunk_size below 1 raises a ValueError."""
    ordinary = submission.call("selective_scan_chunked", **drawn(draw), chunk_size=1)
    for chunk_size in (0, -3):
        got = submission.call("selective_scan_chunked", **drawn(draw), chunk_size=chunk_size)
        expect(got).raises(ValueError, mentioning=[chunk_size], unlike=ordinary)


@pytest.mark.points(memory=1, kept=1)
@pytest.mark.handout("memory")
def test_chunks_need_little_memory(submission, draw, part):
    """No tensor has half of b·d·l·n numbers, and all kept for the backward pass together have fewer than b·d·l·n."""
    arguments = drawn(draw, 1, 32, 2048, 32)
    got = submission.call(
        "selective_scan_chunked", **arguments, delta_softplus=True, chunk_size=64, grad=True, count=True
    )
    numbers = 32 * 2048 * 32
    with part("memory"):
        expect(got).counts("largest_intermediate_numel", at_most=numbers / 2 - 1)
    with part("kept"):
        expect(got).counts("saved_bytes", at_most=4 * numbers)
        expect(got).counts("held_bytes", at_most=4 * numbers)


@pytest.mark.points(forward=1, backward=1)
@pytest.mark.handout("parallel")
def test_chunks_need_few_operations(submission, draw, part):
    """8192 positions in chunks of 256 take fewer than 8192 operations, or 16384 with the backward pass."""
    arguments = drawn(draw, 1, 2, 8192, 2)
    options = {"delta_softplus": True, "chunk_size": 256, "count": True}
    with part("forward"):
        expect(submission.call("selective_scan_chunked", **arguments, **options)).counts("ops", at_most=8191)
    with part("backward"):
        got = submission.call("selective_scan_chunked", **arguments, **options, grad=True)
        expect(got).counts("ops", at_most=2 * 8192 - 1)


@pytest.mark.points(2)
@pytest.mark.at_least("1.5x", "2.5x", of="solutions.selective_scan")
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "both"])
@pytest.mark.handout("parallel")
def test_chunks_are_faster_than_steps(speed, backward):
    """The chunked scan takes a fraction of the time of the solution's step-by-step scan."""

    def ask(submission, draw):
        arguments = drawn(draw, 1, 16, 2048, 8)
        return submission.call("selective_scan_chunked", **arguments, delta_softplus=True, grad=backward)

    speed(ask)


# --- numbers of every kind ------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@both
@pytest.mark.handout("overflow")
def test_states_may_be_forgotten_at_once(submission, draw, name):
    """Δ A may be anything from nearly 0 to -10⁴ and below: forgotten states are 0, and nothing becomes inf or NaN."""
    arguments = drawn(draw, length=70, channels=3)
    arguments["A"] = -torch.tensor([[1e-3, 1.0, 1e4], [30.0, 100.0, 300.0], [1e4, 1e-2, 3.0]])
    check_output(submission, name, arguments, delta_softplus=True)
    check_gradients(submission, name, arguments, delta_softplus=True)


@pytest.mark.points(1)
@both
@pytest.mark.handout("overflow")
def test_states_may_be_kept_for_long(submission, draw, name):
    """With Δ A near 0, the last position still depends on the first."""
    arguments = drawn(draw, 1, 3, 200, 2, without=("z",))
    arguments["A"], arguments["u"] = arguments["A"] / 1000, arguments["u"].abs()
    check_output(submission, name, arguments, delta_softplus=True)
    got = submission.call(name, **arguments, delta_softplus=True, grad=[arguments["delta"], arguments["B"]])
    expect(got).close_to(oracle.selective_scan)


@pytest.mark.points(1)
@both
@pytest.mark.handout("precision")
def test_the_output_has_the_dtype_of_u(submission, draw, name):
    """The output has u's dtype; the state is float32 for half precision."""
    for dtype in ("float16", "bfloat16"):
        arguments = drawn(draw, dtype=dtype) | {"delta_softplus": True, "return_last_state": True}
        got = submission.call(name, **arguments, grad=True)
        dtypes = [arguments["u"].dtype, torch.float32]
        expect(got).close_to(oracle.selective_scan_and_state, **arguments, dtypes=dtypes)
    arguments = drawn(draw, dtype="float64") | {"delta_softplus": True, "return_last_state": True}
    got = submission.call(name, **arguments, grad=True)
    expect(got).close_to(oracle.selective_scan_and_state, **arguments, factor=IN_FLOAT32, dtypes=[torch.float64, None])


def in_half_precision_and_in_float32(module, name, arguments, above):
    found = []
    for wide in (False, True):
        leaves = {key: (each.float() if wide else each).clone().requires_grad_() for key, each in arguments.items()}
        out = getattr(module, name)(**leaves, delta_softplus=True)
        gradients = torch.autograd.grad(out, list(leaves.values()), above.to(out.dtype))
        found.append(
            {"output": out} | {f"gradient of {key}": each for key, each in zip(leaves, gradients, strict=True)}
        )
    return found


@pytest.mark.points(1)
@both
@pytest.mark.handout("precision")
def test_half_precision_is_only_what_goes_in_and_comes_out(submission, draw, name):
    """In half precision, the result is float32's, rounded: states and sums over positions are kept in float32."""
    dtype = "bfloat16"
    arguments = drawn(draw, 1, 4, 372, 2, dtype=dtype)
    arguments["A"] = arguments["A"] / 2000
    arguments |= {key: arguments[key].abs() + 0.5 for key in ("u", "B", "C")}  # so that states only grow
    above = draw.normal(*arguments["u"].shape, dtype=dtype)
    half, wide = submission.run(in_half_precision_and_in_float32, name, arguments, above).output
    for key in wide:
        error, size = (half[key].float() - wide[key]).abs().max(), wide[key].abs().max()
        rounding = size * torch.finfo(torch.bfloat16).eps / 2
        expect.that(
            error <= 4 * rounding,
            f"{key} is off by {error:.2g} of {size:.2g} from the result for the same numbers in float32, but rounding "
            f"it to {dtype} explains only {rounding:.1g}",
        )


@pytest.mark.points(1)
@both
@pytest.mark.handout("recurrence")
def test_arguments_need_not_be_contiguous(submission, draw, name):
    """Arguments and the incoming gradient may have any memory layout."""
    for layout, above in ((sliced, "transposed"), (transposed, "expanded")):
        arguments = {key: layout(each) for key, each in drawn(draw, length=11, C=2).items()}
        arguments["u"] = arguments["u"][:1].expand(2, -1, -1)
        got = submission.call(name, **arguments, delta_softplus=True, grad=True, cotangent=above)
        expect(got).close_to(oracle.selective_scan)


@pytest.mark.points(1)
@both
@pytest.mark.handout("recurrence")
def test_the_batch_may_be_empty(submission, draw, name):
    """For an empty batch, output and state are empty and have the right shapes; a batch of three works too."""
    for batch in (0, 3):
        arguments = drawn(draw, batch, B=2)
        got = submission.call(name, **arguments, delta_softplus=True, return_last_state=True)
        expect(got).close_to(oracle.selective_scan_and_state)


@st.composite
def calls(draw):
    """Any legal call: sizes, forms of B and C, absent arguments, options."""
    groups, others = draw(st.sampled_from([(1, 2), (2, 4), (3, 2), (2, 2)]))
    form = st.sampled_from(["constant", "token", groups, others])
    return {
        "drawn": {
            "batch": draw(st.integers(1, 2)),
            "channels": math.lcm(groups, others) * draw(st.integers(1, 2)),
            "length": draw(st.integers(1, 12)),
            "states": draw(st.integers(1, 4)),
            "B": draw(form),
            "C": draw(form),
            "without": tuple(draw(st.sets(st.sampled_from(["D", "z", "delta_bias"])))),
        },
        "delta_softplus": draw(st.booleans()),
        "chunk_size": draw(st.integers(1, 14)),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.points(1)
@both
@pytest.mark.handout("recurrence")
@settings(max_examples=15)
@given(call=calls())
def test_any_legal_call_is_right(submission, draw, name, call):
    """Sizes, forms and options work in any combination."""
    draw.generator.manual_seed(draw.seed + call["seed"])  # so that a repeated example is the same
    arguments = drawn(draw, **call["drawn"])
    options = {"delta_softplus": call["delta_softplus"], "return_last_state": True}
    options |= {"chunk_size": call["chunk_size"]} if name == "selective_scan_chunked" else {}
    large = [arguments["u"], arguments["delta"], arguments["B"], arguments["C"]]
    got = submission.call(name, **arguments, **options, grad=large)
    expect(got).close_to(oracle.selective_scan_and_state)


# --- one step -------------------------------------------------------------------------------------------------------


def step_arguments(draw, batch=2, channels=6, states=3, B="token", C="token", dtype="float32", without=()):
    arguments = drawn(draw, batch, channels, 1, states, dtype=dtype, B=B, C=C)
    names = {"u": "x", "delta": "dt", "delta_bias": "dt_bias"}
    arguments = {
        names.get(key, key): each if key in ("A", "D", "delta_bias") else each.squeeze(-1)
        for key, each in arguments.items()
        if key not in without
    }
    state = draw.normal(batch, channels, states, dtype="float64" if dtype == "float64" else "float32")
    return {"state": state, **arguments}


def step(module, arguments):
    state = arguments["state"]
    return module.selective_state_update(**arguments), state


def check_step(submission, arguments, factor=None, **options):
    arguments = arguments | options
    got = submission.run(step, arguments)
    written = {"writes": [arguments["state"]], "dtypes": [arguments["x"].dtype, arguments["state"].dtype]}
    expect(got).close_to(oracle.selective_state_update, **arguments, factor=factor, **written)


@pytest.mark.points(1)
@pytest.mark.handout("step")
def test_one_step_updates_the_state_in_place(submission, draw):
    """selective_state_update computes the output from the new state, which it writes to `state`."""
    check_step(submission, step_arguments(draw), dt_softplus=True)


@pytest.mark.points(1)
@pytest.mark.handout("step")
def test_a_step_knows_groups(submission, draw):
    """In a step, B and C may be (b, g, n)."""
    for B, C in ((2, 2), ("token", 2), (3, 2)):
        check_step(submission, step_arguments(draw, B=B, C=C), dt_softplus=True)


@pytest.mark.points(1)
@pytest.mark.handout("step")
def test_a_step_without_its_optional_arguments(submission, draw):
    """D, z and dt_bias may be absent, and dt_softplus is off by default."""
    for without in (("D", "z", "delta_bias"), ("D",), ("z",), ("delta_bias",)):
        check_step(submission, step_arguments(draw, without=without))


@pytest.mark.points(1)
@pytest.mark.handout("precision")
def test_a_step_in_every_dtype(submission, draw):
    """The output has x's dtype; the state keeps its own."""
    for dtype in ("float16", "bfloat16"):
        arguments = step_arguments(draw, dtype=dtype)
        check_step(submission, arguments, dt_softplus=True)
        check_step(submission, arguments | {"state": arguments["state"].to(arguments["x"].dtype)}, dt_softplus=True)
    check_step(submission, step_arguments(draw, dtype="float64"), factor=IN_FLOAT32, dt_softplus=True)


def steps_in_half_precision_and_in_float32(module, arguments):
    found = []
    for wide in (False, True):
        of_call = {key: each.float() if wide else each.clone() for key, each in arguments.items()}
        out = module.selective_state_update(**of_call, dt_softplus=True)
        found.append({"output": out, "state": of_call["state"]})
    return found


@pytest.mark.points(1)
@pytest.mark.handout("precision")
def test_a_step_in_half_precision_computes_in_float32(submission, draw):
    """A float32 state is what it is for the same numbers in float32; only the output is rounded."""
    for dtype in (torch.float16, torch.bfloat16):
        arguments = step_arguments(draw, dtype=str(dtype).removeprefix("torch."))
        half, wide = submission.run(steps_in_half_precision_and_in_float32, arguments).output
        for key, precision in (("output", dtype), ("state", torch.float32)):
            error, size = (half[key].float() - wide[key]).abs().max(), wide[key].abs().max()
            rounding = size * torch.finfo(precision).eps / 2
            expect.that(
                error <= 8 * rounding,
                f"with {dtype} arguments the {key} is off by {error:.2g} of {size:.2g} from that for the same numbers "
                f"in float32, but rounding it to {precision} explains only {rounding:.1g}: convert before you compute",
            )


def steps_one_by_one(module, arguments):
    of_position = {"u": "x", "delta": "dt", "z": "z", "B": "B", "C": "C"}
    fixed = {"A": arguments["A"], "D": arguments["D"], "dt_bias": arguments["delta_bias"]}
    state = torch.zeros(arguments["u"].size(0), *arguments["A"].shape)
    outputs = []
    for t in range(arguments["u"].size(-1)):
        now = {new: arguments[old][..., t] for old, new in of_position.items()}
        outputs.append(module.selective_state_update(state, **now, **fixed, dt_softplus=True))
    return torch.stack(outputs, dim=-1), state


@pytest.mark.points(2)
@pytest.mark.handout("step")
def test_many_steps_are_a_scan(submission, draw):
    """Steps over all positions return the same as one scan of the whole sequence."""
    arguments = drawn(draw, channels=6, length=12, B=2, C=3)
    got = submission.run(steps_one_by_one, arguments)
    expect(got).close_to(oracle.selective_scan_and_state, **arguments, delta_softplus=True)


@pytest.mark.points(1)
@pytest.mark.handout("step")
def test_a_step_writes_to_nothing_but_the_state(submission, draw):
    """The arguments need not be contiguous, and only the state is modified."""
    arguments = step_arguments(draw, batch=3, channels=4)
    for layout in (sliced, transposed):
        check_step(submission, {key: layout(each) for key, each in arguments.items()}, dt_softplus=True)


@pytest.mark.points(1)
@pytest.mark.handout("step")
def test_a_step_refuses_a_B_or_C_that_does_not_fit(submission, draw):
    """Six channels in four groups, or one number for a state of three, raise a ValueError."""
    ordinary = submission.call("selective_state_update", **step_arguments(draw))
    for matrix in ("B", "C"):
        for shape in ((2, 4, 3), (2, 1)):
            got = submission.call("selective_state_update", **step_arguments(draw) | {matrix: draw.normal(*shape)})
            expect(got).raises(ValueError, mentioning=[matrix, 6, *shape], unlike=ordinary)


@pytest.mark.points(scan=1, step=1)
@pytest.mark.handout("cost")
def test_the_cost_of_a_scan_grows_with_the_length_and_that_of_a_step_does_not(submission, draw, part):
    """Twice the positions cost about twice the operations and memory at most; a step costs the same after any text."""
    with part("scan"):
        short, long = (
            submission.call("selective_scan", **drawn(draw, length=length), count=True) for length in (64, 128)
        )
        for what in ("ops", "flops", "largest_intermediate_numel"):
            expect(long).counts(what, at_most=2.5 * short.counts[what])
    with part("step"):
        arguments = step_arguments(draw)
        first = submission.call("selective_state_update", **arguments, count=True)
        submission.run(steps_one_by_one, drawn(draw, channels=6, length=40))
        later = submission.call("selective_state_update", **arguments, count=True)
        expect(later).counts("ops", at_most=first.counts["ops"])
        expect(later).counts("largest_intermediate_numel", at_most=arguments["state"].numel())


# --- the convolution ------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("convolution")
def test_the_convolution_sees_no_future(submission, draw, part):
    """out_t depends on x_{t-w+1} … x_t, and the last weight applies to x_t."""
    x, weight, bias = draw.normal(2, 5, 9), draw.normal(5, 4), draw.normal(5)
    with part("output"):
        expect(submission.call("causal_conv1d", x, weight)).close_to(oracle.causal_conv1d)
    with part("gradients"):
        expect(submission.call("causal_conv1d", x, weight, bias, grad=True)).close_to(oracle.causal_conv1d)


@pytest.mark.points(1)
@pytest.mark.handout("convolution")
def test_the_activation_follows_the_bias(submission, draw):
    """The activation is silu, also called swish, of the sum including the bias; None means no activation."""
    x, weight, bias = draw.normal(2, 5, 9), draw.normal(5, 3), draw.normal(5)
    for activation in ("silu", "swish", None):
        got = submission.call("causal_conv1d", x, weight, bias, activation=activation, grad=True)
        expect(got).close_to(oracle.causal_conv1d)


@pytest.mark.points(1)
@pytest.mark.handout("convolution")
def test_another_activation_is_refused(submission, draw):
    """An activation other than silu and swish raises a ValueError."""
    x, weight = draw.normal(2, 5, 9), draw.normal(5, 3)
    got, ordinary = (submission.call("causal_conv1d", x, weight, activation=name) for name in ("tanh", "swish"))
    expect(got).raises(ValueError, mentioning=["tanh"], unlike=ordinary)


@pytest.mark.points(initial=1, final=1)
@pytest.mark.handout("conv-state")
def test_the_final_states_are_the_last_inputs(submission, draw, part):
    """initial_states precede the sequence; final_states hold the last w - 1 inputs, even of a short sequence."""
    for length, width in ((9, 4), (3, 4), (1, 4), (5, 1), (1, 2)):
        x, weight, before = draw.normal(2, 5, length), draw.normal(5, width), draw.normal(2, 5, width - 1)
        with part("initial"):
            got = submission.call("causal_conv1d", x, weight, initial_states=before, activation="silu", grad=True)
            expect(got).close_to(oracle.causal_conv1d)
        with part("final"):
            for initial in (None, before):
                got = submission.call("causal_conv1d", x, weight, None, initial, True, grad=[x, weight])
                expect(got).close_to(oracle.causal_conv1d_and_states)


def convolution_in_parts(module, x, weight, bias):
    outputs, states = [], None
    for part in x.split([1, 2, 5, 3], dim=-1):
        out, states = module.causal_conv1d(part, weight, bias, states, True, "silu")
        outputs.append(out)
    return torch.cat(outputs, dim=-1)


@pytest.mark.points(1)
@pytest.mark.handout("conv-state")
def test_a_sequence_may_come_in_parts(submission, draw):
    """Passing final_states on as initial_states, parts of a sequence yield the same as the whole."""
    x, weight, bias = draw.normal(2, 5, 11), draw.normal(5, 4), draw.normal(5)
    got = submission.run(convolution_in_parts, x, weight, bias)
    expect(got).close_to(oracle.causal_conv1d, x, weight, bias, activation="silu")


@pytest.mark.points(1)
@pytest.mark.handout("convolution")
def test_the_convolution_in_every_dtype(submission, draw):
    """Output and final states have x's dtype; arguments need not be contiguous."""
    for dtype in ("float64", "float16", "bfloat16"):
        x, before = draw.normal(2, 5, 9, dtype=dtype), draw.normal(2, 5, 3, dtype=dtype)
        weight, bias = draw.normal(5, 4, dtype=dtype), draw.normal(5, dtype=dtype)
        for layout in (sliced, transposed):
            arguments = [layout(each) for each in (x, weight, bias, before)]
            got = submission.call("causal_conv1d", *arguments, True, "silu", grad=True, cotangent="transposed")
            expect(got).close_to(oracle.causal_conv1d_and_states)

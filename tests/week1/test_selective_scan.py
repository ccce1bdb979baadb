"""Graded tests of week1/selective_scan: the scan step by step and by chunks, one step of it, and the convolution."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grading import expect
from tests.oracles import selective_scan as oracle


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


both = pytest.mark.parametrize("name", ["selective_scan", "selective_scan_chunked"])

# --- the recurrence -------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("example")
def test_the_worked_example(submission):
    """The handout's worked example comes out."""
    row = lambda *numbers: torch.tensor([[numbers]])  # noqa: E731
    half = math.log(2.0)
    arguments = {"u": row(1.0, 5.0, 2.0), "delta": row(half, 0.0, half), "A": torch.tensor([[-1.0]])}
    arguments |= {"B": row(1.0, 1.0, 1.0), "C": row(1.0, 1.0, 2.0)}
    got = submission.call("selective_scan", **arguments, return_last_state=True)
    expect(got).close_to(oracle.selective_scan_and_state)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("recurrence")
def test_constant_matrices(submission, draw, part):
    """With B and C the same at all positions, (d, n), it is the state space model that came before Mamba."""
    arguments = drawn(draw, B="constant", C="constant", without=("D", "z", "delta_bias"))
    arguments["delta"] = arguments["delta"].abs()
    with part("output"):
        check_output(submission, "selective_scan", arguments)
    with part("gradients"):
        check_gradients(submission, "selective_scan", arguments)


@pytest.mark.points(output=1, gradients=2)
@pytest.mark.handout("selective")
def test_matrices_of_each_position(submission, draw, part):
    """B and C of shape (b, n, l) are each position's own, and every channel's."""
    arguments = drawn(draw, without=("D", "z", "delta_bias"))
    arguments["delta"] = arguments["delta"].abs()
    with part("output"):
        check_output(submission, "selective_scan", arguments)
    with part("gradients"):
        check_gradients(submission, "selective_scan", arguments)


@pytest.mark.points(1)
@pytest.mark.parametrize(("B", "C"), [(2, 2), (1, 6), (3, "token"), ("constant", 2), ("token", "constant")])
@pytest.mark.handout("groups")
def test_neighbouring_channels_share_a_group(submission, draw, B, C):
    """B and C of shape (b, g, n, l) hold one matrix for each group of neighbouring channels, and forms may be mixed."""
    arguments = drawn(draw, channels=6, B=B, C=C)
    check_output(submission, "selective_scan", arguments)
    check_gradients(submission, "selective_scan", arguments)


@pytest.mark.points(1)
@both
@pytest.mark.handout("groups")
def test_groups_that_do_not_divide_the_channels_are_refused(submission, draw, name):
    """A number of channels that is no multiple of the groups is a ValueError."""
    for matrix in ("B", "C"):
        arguments = drawn(draw, channels=6, **{matrix: 4})
        expect(submission.call(name, **arguments)).raises(ValueError, mentioning=[6, 4])


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
    """delta may be 200 as well as -200: log(1 + exp(delta)) is about delta, or about 0."""
    arguments = drawn(draw, without=("delta_bias",))
    arguments["delta"][..., ::3], arguments["delta"][..., 1::3] = 200.0, -200.0
    check_output(submission, name, arguments, delta_softplus=True)
    check_gradients(submission, name, arguments, delta_softplus=True)


@pytest.mark.points(1)
@both
@pytest.mark.handout("step-size")
def test_without_softplus_steps_may_be_negative(submission, draw, name):
    """Without delta_softplus Δ is delta + delta_bias, negative steps included."""
    arguments = drawn(draw, length=11)
    check_output(submission, name, arguments)
    check_gradients(submission, name, arguments)


@pytest.mark.points(1)
@both
@pytest.mark.handout("gate")
def test_the_skip_is_added_before_the_gate(submission, draw, name):
    """out = (y + D u) silu(z)."""
    arguments = drawn(draw)
    check_output(submission, name, arguments, delta_softplus=True)
    check_gradients(submission, name, arguments, delta_softplus=True)


@pytest.mark.points(1)
@pytest.mark.parametrize("without", [("D",), ("z",), ("delta_bias",), ("D", "z"), ("D", "z", "delta_bias")])
@pytest.mark.handout("gate")
def test_each_of_D_z_and_delta_bias_may_be_absent(submission, draw, without):
    """What is not given, or given as None, is left out."""
    arguments = drawn(draw, without=without)
    for name in ("selective_scan", "selective_scan_chunked"):
        check_gradients(submission, name, arguments, delta_softplus=True)
        check_output(submission, name, {**arguments, **dict.fromkeys(without)}, delta_softplus=True)


# --- the last state -------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@both
@pytest.mark.handout("last-state")
def test_the_last_state_is_returned_when_asked_for(submission, draw, part, name):
    """With return_last_state the state after the last position comes back too, and gradients flow from both."""
    arguments = drawn(draw, length=10, B=2)
    options = {"delta_softplus": True, "return_last_state": True}
    options |= {"chunk_size": 4} if name == "selective_scan_chunked" else {}
    with part("output"):
        got = submission.call(name, **arguments, **options)
        expect(got).close_to(oracle.selective_scan_and_state)
    with part("gradients"):
        got = submission.call(name, **arguments, **options, grad=True)
        expect(got).close_to(oracle.selective_scan_and_state)


# --- by chunks ------------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=2)
@pytest.mark.parametrize(("B", "C"), [("token", "token"), (2, 3), ("constant", "constant")])
@pytest.mark.handout("chunks")
def test_chunks_change_nothing(submission, draw, part, B, C):
    """selective_scan_chunked gives what selective_scan gives, whatever form B and C have."""
    arguments = drawn(draw, channels=6, length=20, B=B, C=C)
    with part("output"):
        check_output(submission, "selective_scan_chunked", arguments, delta_softplus=True, chunk_size=5)
    with part("gradients"):
        check_gradients(submission, "selective_scan_chunked", arguments, delta_softplus=True, chunk_size=5)


@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("length", "chunk_size"),
    [(1, 64), (7, 3), (7, 1), (63, 64), (64, 64), (65, 64), (65, 16), (128, 50), (372, 64)],
)
@pytest.mark.handout("chunks")
def test_any_length_goes_with_any_chunk_size(submission, draw, length, chunk_size):
    """The last chunk may be shorter than the others, and the only one."""
    arguments = drawn(draw, 1, 3, length, 2)
    arguments["A"] = arguments["A"] / 8
    large = [arguments[name] for name in ("u", "delta", "B", "C", "z")]
    options = {"delta_softplus": True, "chunk_size": chunk_size}
    check_output(submission, "selective_scan_chunked", arguments, **options)
    got = submission.call("selective_scan_chunked", **arguments, **options, grad=large if length > 64 else True)
    expect(got).close_to(oracle.selective_scan)


@pytest.mark.points(1)
@pytest.mark.parametrize("chunk_size", [0, -3])
@pytest.mark.handout("chunks")
def test_a_chunk_holds_at_least_one_position(submission, draw, chunk_size):
    """A chunk_size below 1 is a ValueError."""
    got = submission.call("selective_scan_chunked", **drawn(draw), chunk_size=chunk_size)
    expect(got).raises(ValueError, mentioning=[chunk_size])


@pytest.mark.points(memory=2, kept=2)
@pytest.mark.handout("memory")
def test_chunks_need_little_memory(submission, draw, part):
    """No tensor has half of b·d·l·n numbers, and what is kept for the backward pass together has fewer than that."""
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


@pytest.mark.points(forward=2, backward=1)
@pytest.mark.handout("parallel")
def test_chunks_need_few_operations(submission, draw, part):
    """8192 positions in chunks of 256 take fewer than 8192 operations, 16384 with the backward pass."""
    arguments = drawn(draw, 1, 2, 8192, 2)
    options = {"delta_softplus": True, "chunk_size": 256, "count": True}
    with part("forward"):
        expect(submission.call("selective_scan_chunked", **arguments, **options)).counts("ops", at_most=8191)
    with part("backward"):
        got = submission.call("selective_scan_chunked", **arguments, **options, grad=True)
        expect(got).counts("ops", at_most=2 * 8192 - 1)


# --- numbers of every kind ------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@both
@pytest.mark.handout("overflow")
def test_states_may_be_forgotten_at_once(submission, draw, part, name):
    """Δ A may be anything from nearly 0 to -10⁴ and below: what is forgotten is 0, and nothing becomes inf or NaN."""
    arguments = drawn(draw, length=70, channels=3)
    arguments["A"] = -torch.tensor([[1e-3, 1.0, 1e4], [30.0, 100.0, 300.0], [1e4, 1e-2, 3.0]])
    with part("output"):
        check_output(submission, name, arguments, delta_softplus=True)
    with part("gradients"):
        check_gradients(submission, name, arguments, delta_softplus=True)


@pytest.mark.points(1)
@both
@pytest.mark.handout("overflow")
def test_states_may_be_kept_for_long(submission, draw, name):
    """With Δ A near 0 the last position still hears the first one."""
    arguments = drawn(draw, 1, 3, 200, 2, without=("z",))
    arguments["A"], arguments["u"] = arguments["A"] / 1000, arguments["u"].abs()
    check_output(submission, name, arguments, delta_softplus=True)
    got = submission.call(name, **arguments, delta_softplus=True, grad=[arguments["delta"], arguments["B"]])
    expect(got).close_to(oracle.selective_scan)


@pytest.mark.points(1)
@both
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.handout("precision")
def test_the_output_has_the_dtype_of_u(submission, draw, name, dtype):
    """Every dtype goes in and comes out; the state is float32 for half precision."""
    arguments = drawn(draw, dtype=dtype)
    got = submission.call(name, **arguments, delta_softplus=True, return_last_state=True, grad=True)
    if dtype == "float64":  # to the accuracy of float32
        expect(got).close_to(
            oracle.selective_scan_and_state, **got.request.kwargs, factor=32 * 2.0**29, dtypes=[torch.float64, None]
        )
    else:
        dtypes = [arguments["u"].dtype, torch.float32]
        expect(got).close_to(oracle.selective_scan_and_state, **got.request.kwargs, dtypes=dtypes)


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
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.handout("precision")
def test_half_precision_is_only_what_goes_in_and_comes_out(submission, draw, name, dtype):
    """In half precision the result is that of float32, rounded: states and sums over positions are kept in float32."""
    arguments = drawn(draw, 1, 4, 372, 2, dtype=dtype)
    arguments["A"] = arguments["A"] / 2000
    arguments |= {key: arguments[key].abs() + 0.5 for key in ("u", "B", "C")}  # so that states only grow
    above = draw.normal(*arguments["u"].shape, dtype=dtype)
    half, wide = submission.run(in_half_precision_and_in_float32, name, arguments, above).output
    for key in wide:
        error, size = (half[key].float() - wide[key]).abs().max(), wide[key].abs().max()
        rounding = size * torch.finfo(half[key].dtype).eps / 2
        expect.that(
            error <= 4 * max(rounding, size * 2.0**-16),
            f"{key} is off by {error:.2g} of {size:.2g} from what the same numbers give in float32, where rounding it "
            f"to {dtype} explains {rounding:.1g}",
        )


@pytest.mark.points(1)
@both
@pytest.mark.handout("recurrence")
def test_arguments_need_not_be_contiguous(submission, draw, name):
    """Arguments may lie in memory in any way, and so may the gradient that arrives."""
    sliced = drawn(draw, 2, 8, 22, 6)
    sliced = {key: each[..., ::2] if each.dim() == 3 else each for key, each in sliced.items()}
    sliced = {key: each[:, ::2] if each.dim() > 1 else each[::2] for key, each in sliced.items()}
    sliced["A"] = sliced["A"][::2]
    swapped = drawn(draw, 4, 2, 11, 4, C=2)
    swapped = {key: each.transpose(0, 1) if each.dim() == 3 else each for key, each in swapped.items()}
    swapped |= {"A": swapped["A"].T, "D": draw.normal(4), "delta_bias": draw.normal(1).expand(4)}
    swapped["C"] = draw.normal(11, 3, 1, 1).expand(11, 3, 2, 2).permute(3, 2, 1, 0)[:, :, :2]
    for arguments, above in ((sliced, "transposed"), (swapped, "expanded")):
        got = submission.call(name, **arguments, delta_softplus=True, grad=True, cotangent=above)
        expect(got).close_to(oracle.selective_scan)


@pytest.mark.points(1)
@both
@pytest.mark.handout("recurrence")
def test_the_batch_may_be_empty(submission, draw, name):
    """No sequences give an output and a state for no sequences; three are as good as one."""
    for batch in (0, 3):
        arguments = drawn(draw, batch, B=2)
        got = submission.call(name, **arguments, delta_softplus=True, return_last_state=True)
        expect(got).close_to(oracle.selective_scan_and_state)


@st.composite
def calls(draw):
    """Any legal call: sizes, forms of B and C, what is absent, the options."""
    groups, others = draw(st.sampled_from([(1, 2), (2, 4), (3, 2), (2, 2)]))
    form = st.sampled_from(["constant", "token", groups, others])
    return {
        "drawn": {
            "batch": draw(st.integers(1, 2)),
            "channels": math.lcm(groups, others) * draw(st.integers(1, 2)),
            "length": draw(st.integers(1, 20)),
            "states": draw(st.integers(1, 4)),
            "B": draw(form),
            "C": draw(form),
            "without": tuple(draw(st.sets(st.sampled_from(["D", "z", "delta_bias"])))),
        },
        "delta_softplus": draw(st.booleans()),
        "chunk_size": draw(st.integers(1, 24)),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.points(2)
@both
@pytest.mark.handout("recurrence")
@settings(max_examples=15)
@given(call=calls())
def test_any_legal_call_is_right(submission, draw, name, call):
    """Sizes, forms and options in any combination."""
    draw.generator.manual_seed(draw.seed + call["seed"])  # so that an example is the same when it is tried again
    arguments = drawn(draw, **call["drawn"])
    options = {"delta_softplus": call["delta_softplus"], "return_last_state": True}
    options |= {"chunk_size": call["chunk_size"]} if name == "selective_scan_chunked" else {}
    large = [arguments["u"], arguments["delta"], arguments["B"], arguments["C"]]
    got = submission.call(name, **arguments, **options, grad=large)
    expect(got).close_to(oracle.selective_scan_and_state)


# --- one step -------------------------------------------------------------------------------------------------------


def step_arguments(draw, batch=2, channels=6, states=3, B=None, C=None, dtype="float32", without=()):
    arguments = drawn(draw, batch, channels, 1, states, dtype=dtype, B=B or "token", C=C or "token")
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


def check_step(submission, arguments, **options):
    arguments = arguments | options
    got = submission.run(step, arguments)
    expect(got).close_to(oracle.selective_state_update, **arguments, writes=[arguments["state"]], dtypes=[
        arguments["x"].dtype, arguments["state"].dtype
    ])  # fmt: skip


@pytest.mark.points(2)
@pytest.mark.handout("step")
def test_one_step_updates_the_state_in_place(submission, draw):
    """selective_state_update gives the output from the new state, which it leaves in `state`."""
    check_step(submission, step_arguments(draw), dt_softplus=True)


@pytest.mark.points(1)
@pytest.mark.parametrize(("B", "C"), [(None, 2), (3, 2)])
@pytest.mark.handout("step")
def test_a_step_knows_groups(submission, draw, B, C):
    """B and C may be (b, g, n) in a step."""
    check_step(submission, step_arguments(draw, B=B, C=C), dt_softplus=True)


@pytest.mark.points(1)
@pytest.mark.handout("step")
def test_a_step_without_its_optional_arguments(submission, draw):
    """D, z and dt_bias may be absent, and dt_softplus is off unless asked for."""
    for without in (("D", "z", "delta_bias"), ("D",), ("z",), ("delta_bias",)):
        check_step(submission, step_arguments(draw, without=without))


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.handout("precision")
def test_a_step_in_every_dtype(submission, draw, dtype):
    """The output has x's dtype, the state keeps its own."""
    arguments = step_arguments(draw, dtype=dtype)
    if dtype != "float64":
        return check_step(submission, arguments, dt_softplus=True)
    got = submission.run(step, arguments | {"dt_softplus": True})
    expect(got).close_to(
        oracle.selective_state_update,
        **arguments,
        dt_softplus=True,
        writes=[arguments["state"]],
        factor=32 * 2.0**29,
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
    """Position after position gives what the whole sequence gives at once."""
    arguments = drawn(draw, channels=6, length=12, B=2, C=3)
    got = submission.run(steps_one_by_one, arguments)
    expect(got).close_to(oracle.selective_scan_and_state, **arguments, delta_softplus=True)


@pytest.mark.points(1)
@pytest.mark.handout("step")
def test_a_step_writes_to_nothing_but_the_state(submission, draw):
    """The arguments need not be contiguous, and all but the state are left as they were."""
    arguments = step_arguments(draw, batch=3, channels=4)
    for key in ("x", "dt", "z", "B", "A"):
        arguments[key] = arguments[key].T.contiguous().T
    arguments["state"] = draw.normal(3, 3, 4).transpose(1, 2)
    check_step(submission, arguments, dt_softplus=True)


@pytest.mark.points(1)
@pytest.mark.handout("step")
def test_a_step_refuses_groups_that_do_not_divide_the_channels(submission, draw):
    """Six channels in four groups are a ValueError."""
    got = submission.call("selective_state_update", **step_arguments(draw, B=4, C=2))
    expect(got).raises(ValueError, mentioning=[6, 4])


# --- the convolution ------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("convolution")
def test_the_convolution_sees_no_future(submission, draw, part):
    """out_t is made of x_{t-w+1} … x_t, the last weight meeting x_t."""
    x, weight, bias = draw.normal(2, 5, 9), draw.normal(5, 4), draw.normal(5)
    with part("output"):
        expect(submission.call("causal_conv1d", x, weight)).close_to(oracle.causal_conv1d)
    with part("gradients"):
        expect(submission.call("causal_conv1d", x, weight, bias, grad=True)).close_to(oracle.causal_conv1d)


@pytest.mark.points(1)
@pytest.mark.parametrize("activation", ["silu", "swish", None])
@pytest.mark.handout("convolution")
def test_the_activation_follows_the_bias(submission, draw, activation):
    """silu, also called swish, of the sum with the bias; None for no activation."""
    got = submission.call(
        "causal_conv1d", draw.normal(2, 5, 9), draw.normal(5, 3), draw.normal(5), activation=activation, grad=True
    )
    expect(got).close_to(oracle.causal_conv1d)


@pytest.mark.points(1)
@pytest.mark.handout("convolution")
def test_another_activation_is_refused(submission, draw):
    """An activation that is neither silu nor swish is a ValueError."""
    got = submission.call("causal_conv1d", draw.normal(2, 5, 9), draw.normal(5, 3), activation="tanh")
    expect(got).raises(ValueError, mentioning=["tanh"])


@pytest.mark.points(1)
@pytest.mark.parametrize(("length", "width"), [(9, 4), (3, 4), (1, 4), (5, 1), (1, 2)])
@pytest.mark.handout("conv-state")
def test_the_final_states_are_the_last_inputs(submission, draw, length, width):
    """initial_states stand before the sequence, and final_states hold the last w - 1 inputs, however short it is."""
    x, weight, bias = draw.normal(2, 5, length), draw.normal(5, width), draw.normal(5)
    for initial in (None, draw.normal(2, 5, width - 1)):
        got = submission.call("causal_conv1d", x, weight, bias, initial, True, "silu")
        expect(got).close_to(oracle.causal_conv1d_and_states)
        got = submission.call("causal_conv1d", x, weight, bias, initial, True, "silu", grad=[x, weight, bias])
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
    """Handing final_states on as initial_states gives what the whole sequence gives."""
    x, weight, bias = draw.normal(2, 5, 11), draw.normal(5, 4), draw.normal(5)
    got = submission.run(convolution_in_parts, x, weight, bias)
    expect(got).close_to(oracle.causal_conv1d, x, weight, bias, activation="silu")


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.handout("convolution")
def test_the_convolution_in_every_dtype(submission, draw, dtype):
    """Output and final states have x's dtype; x need not be contiguous."""
    x, weight, bias = draw.normal(2, 9, 5, dtype=dtype).mT, draw.normal(5, 4, dtype=dtype), draw.normal(5, dtype=dtype)
    before = draw.normal(2, 3, 5, dtype=dtype).mT
    got = submission.call("causal_conv1d", x, weight, bias, before, True, "silu", grad=True, cotangent="transposed")
    expect(got).close_to(oracle.causal_conv1d_and_states)

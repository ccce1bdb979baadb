"""Graded tests of week1/mamba: the block for whole sequences, a single step, and the language model around it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grading import expect
from tests.oracles import mamba as oracle
from tests.oracles.gradients import gradients_of
from tests.oracles.precision import float32_inside

# What the exercise asks for: a hand-in that names it is looked at by a person (grading/course/review.py).
READY_MADE = (
    "selective_scan_fn",
    "selective_scan_ref",
    "selective_scan_cuda",
    "mamba_inner_fn",
    "mamba_inner_ref",
    "mamba_chunk_scan_combined",
    "Mamba",
    "Mamba2",
    "MambaLMHeadModel",
    "MambaForCausalLM",
    "MambaModel",
    "MambaMixer",
    "MambaBlock",
    "AutoModelForCausalLM",
    "causal_conv1d_fn",
    "causal_conv1d_update",
)

SIZES = {"d_model": 20, "d_state": 3}
OPTIONS = {
    "biases": [{"conv_bias": False}, {"bias": True}],
    "ones": [{"d_state": 1}, {"d_conv": 1}, {"expand": 1}],
    "sizes": [{"dt_rank": 5}, {"d_conv": 2, "expand": 1.5}],
}


def shapes_of(d_model, d_state=16, d_conv=4, expand=2, dt_rank="auto", conv_bias=True, bias=False):
    """The state dict of mamba_ssm.Mamba."""
    channels = int(expand * d_model)
    rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
    shapes = {
        "in_proj.weight": (2 * channels, d_model),
        "conv1d.weight": (channels, 1, d_conv),
        "x_proj.weight": (rank + 2 * d_state, channels),
        "dt_proj.weight": (channels, rank),
        "dt_proj.bias": (channels,),
        "A_log": (channels, d_state),
        "D": (channels,),
        "out_proj.weight": (d_model, channels),
    }
    if conv_bias:
        shapes["conv1d.bias"] = (channels,)
    if bias:
        shapes |= {"in_proj.bias": (2 * channels,), "out_proj.bias": (d_model,)}
    return shapes


def weights_for(draw, dtype="float32", **sizes):
    return {name: draw.normal(*shape, dtype=dtype, scale=0.5) for name, shape in shapes_of(**sizes).items()}


def shapes_in_block(module, sizes):
    return {name: tuple(tensor.shape) for name, tensor in module.Mamba(**sizes).state_dict().items()}


def check_state_dict(found, expected):
    wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    expect.that(
        not wrong,
        "wrong state dict: " + ", ".join(f"{key} is {found.get(key)}, not {expected.get(key)}" for key in wrong[:6]),
    )


# --- the block: whole sequences -------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("example")
def test_the_worked_example(submission):
    """The handout's worked example is reproduced."""
    one = torch.ones(1, 1)
    weights = {"in_proj.weight": torch.ones(2, 1), "x_proj.weight": torch.ones(3, 1), "dt_proj.weight": one}
    weights |= {"conv1d.weight": torch.tensor([[[0.5, 1.0]]]), "A_log": 0 * one, "out_proj.weight": one}
    weights |= {"dt_proj.bias": torch.zeros(1), "D": torch.ones(1)}
    hidden_states = torch.tensor([[[2.0], [0.0], [1.0]]])
    block = submission.make("Mamba", 1, d_state=1, d_conv=2, expand=1, conv_bias=False)
    expect(block.load(weights).call(hidden_states)).close_to(oracle.mamba, weights, hidden_states)


@pytest.mark.points(1)
@pytest.mark.handout("weights")
def test_the_state_dict_is_mamba_ssm_s(submission):
    """The parameters have the names and shapes of mamba_ssm.Mamba's, with every option."""
    for options in ({}, {"d_model": 16}, *OPTIONS["biases"], *OPTIONS["ones"], *OPTIONS["sizes"]):
        sizes = SIZES | options
        check_state_dict(submission.run(shapes_in_block, sizes).output, shapes_of(**sizes))


@pytest.mark.points(output=2, gradients=2)
@pytest.mark.handout("block")
def test_a_block_is_two_paths_that_are_multiplied(submission, draw, part):
    """One path goes through convolution and scan, the other gates it; the gradients are right."""
    weights, hidden_states = weights_for(draw, **SIZES), draw.normal(2, 9, 20)
    block = submission.make("Mamba", **SIZES).load(weights)
    with part("output"):
        expect(block.call(hidden_states)).close_to(oracle.mamba, weights, hidden_states)
    with part("gradients"):
        expect(block.call(hidden_states, grad=True)).close_to(oracle.mamba, weights, hidden_states)


@pytest.mark.points(1)
@pytest.mark.parametrize("length", [1, 2, 70])
@pytest.mark.handout("convolution")
def test_a_sequence_may_have_any_length(submission, draw, length):
    """A sequence may be one position long, shorter than the filter, or long; the batch may be one or three."""
    for batch in (1, 3):
        weights, hidden_states = weights_for(draw, **SIZES), draw.normal(batch, length, 20)
        got = submission.make("Mamba", **SIZES).load(weights).call(hidden_states, grad=True)
        expect(got).close_to(oracle.mamba, weights, hidden_states)


@pytest.mark.points(1)
@pytest.mark.handout("block")
def test_the_input_need_not_be_contiguous(submission, draw):
    """The input and the incoming gradient may have any memory layout."""
    weights = weights_for(draw, **SIZES)
    for hidden_states in (draw.normal(2, 14, 40)[:, ::2, ::2], draw.normal(20, 7, 2).permute(2, 1, 0)):
        got = submission.make("Mamba", **SIZES).load(weights).call(hidden_states, grad=True, cotangent="transposed")
        expect(got).close_to(oracle.mamba, weights, hidden_states)


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.handout("precision")
def test_every_dtype_is_as_accurate_as_it_can_be(submission, draw, dtype):
    """In a block of 16 or 64 bits, the result has its dtype and no more than its rounding error."""
    weights, hidden_states = weights_for(draw, dtype, **SIZES), draw.normal(2, 7, 20, dtype=dtype)
    block = submission.make("Mamba", **SIZES).to(getattr(torch, dtype)).load(weights)
    got = block.call(hidden_states, grad=True)
    expect(got).close_to(oracle.mamba, weights, hidden_states, factor=float32_inside(dtype))


@pytest.mark.points(1)
@pytest.mark.handout("step-size")
def test_channels_may_forget_at_once_or_never(submission, draw):
    """Steps of 100 overwrite the state, steps near 0 keep it, and a decay may be anything in between."""
    weights, hidden_states = weights_for(draw, **SIZES), draw.normal(2, 40, 20)
    weights["dt_proj.bias"][:8] += 100
    weights["dt_proj.bias"][8:16] -= 20
    weights["A_log"][16:24] -= 10
    weights["A_log"][24:32] += 5
    got = submission.make("Mamba", **SIZES).load(weights).call(hidden_states, grad=True)
    expect(got).close_to(oracle.mamba, weights, hidden_states)


def outputs_of_several(module, sizes, weights, several):
    block = module.Mamba(**sizes)
    block.load_state_dict(weights)
    return [block(each)[:, :5] for each in several]


@pytest.mark.points(1)
@pytest.mark.handout("convolution")
def test_no_position_sees_the_future(submission, draw):
    """Later positions, different ones or none at all, do not affect a position."""
    weights, past = weights_for(draw, **SIZES), draw.normal(2, 5, 20)
    several = [past, *(torch.cat([past, draw.normal(2, more, 20, scale=3.0)], 1) for more in (1, 66))]

    def all_the_same(weights, past):
        return [oracle.mamba(weights, past)] * 3

    got = submission.run(outputs_of_several, SIZES, weights, several)
    expect(got).close_to(all_the_same, weights, past, dims=oracle.mamba.dims)


@pytest.mark.points(1)
@pytest.mark.handout("weights")
def test_it_loads_the_mixer_of_transformers(submission, draw):
    """With the weights of transformers' MambaMixer, it returns that mixer's results."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    torch.manual_seed(draw.seed)
    mixer = MambaMixer(MambaConfig(hidden_size=24, state_size=8, use_bias=True), layer_idx=0)
    weights = {name: tensor.detach().clone() for name, tensor in mixer.state_dict().items()}
    hidden_states = draw.normal(2, 9, 24)
    block = submission.make("Mamba", 24, d_state=8, bias=True).load(weights)
    expect(block.call(hidden_states, grad=True)).close_to(oracle.mamba, weights, hidden_states)


@pytest.mark.points(2)
@pytest.mark.handout("cost")
def test_work_and_memory_grow_with_the_length(submission, draw):
    """Four times as many positions take about four times the work and memory, not sixteen times."""
    weights = weights_for(draw, d_model=8, d_state=4)
    block = submission.make("Mamba", 8, d_state=4).load(weights)
    short, long = (block.call(draw.normal(1, length, 8), count=True).counts for length in (128, 512))
    for what in ("flops", "largest_intermediate_numel", "saved_bytes"):
        times = long[what] / max(short[what], 1)
        expect.that(
            times < 6,
            f"{what.replace('_', ' ')}: {times:.1f} times as much for 512 positions as for 128; a scan needs 4 times",
        )


# --- the block: initialisation --------------------------------------------------------------------------------------


def new_parameters(module, *args, **kwargs):
    block = module.Mamba(*args, **kwargs)
    return {name: parameter.detach() for name, parameter in block.named_parameters()}


def distance_from_uniform(numbers, low, high):
    """Kolmogorov–Smirnov: the largest distance between the two distributions, in units of 1/√count.

    Below 2.5 in all but one of 100,000 draws.
    """
    found = ((numbers.double().flatten().sort().values - low) / (high - low)).clamp(0, 1)
    count = len(found)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    return float(torch.maximum(steps[1:] - found, found - steps[:-1]).max()) * math.sqrt(count)


def check_uniform(name, numbers, low, high):
    least, most = float(numbers.min()), float(numbers.max())
    margin = 1e-3 * (high - low)
    expect.that(
        low - margin <= least and most <= high + margin,
        f"{name} is between {least:.4g} and {most:.4g}; it should be between {low:.4g} and {high:.4g}",
    )
    expect.that(
        distance_from_uniform(numbers, low, high) < 2.5,
        f"{name} is not distributed uniformly between {low:.4g} and {high:.4g}: its mean is "
        f"{float(numbers.mean()):.4g} and its standard deviation {float(numbers.std()):.4g}",
    )


@pytest.mark.points(1)
@pytest.mark.handout("initialisation")
def test_a_and_d_begin_with_fixed_numbers(submission):
    """A_log starts as log 1 … log n in each channel, D as ones."""
    new = submission.run(new_parameters, 6, d_state=5).output
    right = torch.arange(1.0, 6).log().expand(12, 5)
    expect.that(
        torch.allclose(new["A_log"], right, rtol=1e-5, atol=1e-6),
        "A_log should be log 1 … log n in each channel, so that A is -1 … -n",
        expected=f"rows of {[round(each, 4) for each in right[0].tolist()]}",
        got=f"first row {[round(each, 4) for each in new['A_log'][0].tolist()]}",
    )
    expect.that((new["D"] == 1).all(), f"D should be ones, not {new['D'].tolist()}")


def spared_from_decay(module):
    block = module.Mamba(6)
    return [name for name, each in block.named_parameters() if getattr(each, "_no_weight_decay", False)]


@pytest.mark.points(1)
@pytest.mark.handout("initialisation")
def test_a_and_d_are_marked_against_weight_decay(submission):
    """A_log and D, and no other parameters, have _no_weight_decay."""
    marked = submission.run(spared_from_decay).output
    expect.that(sorted(marked) == ["A_log", "D"], f"A_log and D should be marked, not {marked}")


@pytest.mark.points(1)
@pytest.mark.handout("initialisation")
def test_step_sizes_begin_between_dt_min_and_dt_max(submission):
    """softplus(dt_proj.bias) is log-uniform between dt_min and dt_max, and at least dt_init_floor."""
    for low, high in ((0.001, 0.1), (0.01, 3.0)):
        bias = submission.run(new_parameters, 256, dt_min=low, dt_max=high).output["dt_proj.bias"]
        steps = torch.nn.functional.softplus(bias.double())
        check_uniform("the logarithm of softplus(dt_proj.bias)", steps.log(), math.log(low), math.log(high))
    bias = submission.run(new_parameters, 256, dt_min=1e-6, dt_max=1e-3, dt_init_floor=1e-4).output["dt_proj.bias"]
    steps = torch.nn.functional.softplus(bias.double())
    at_floor = (steps < 1.01e-4).double().mean().item()
    expect.that(
        steps.min() > 0.99e-4 and 0.5 < at_floor < 0.8,
        f"with dt_min=1e-6, dt_max=1e-3 and dt_init_floor=1e-4 two thirds of the step sizes should start at 1e-4 and "
        f"none below; {at_floor:.0%} do, and the lowest is {float(steps.min()):.3g}",
    )


@pytest.mark.points(1)
@pytest.mark.handout("initialisation")
def test_the_projection_of_step_sizes_begins_small(submission):
    """dt_proj.weight starts uniform between ±dt_scale / √r, or as that number itself if constant."""
    for options, largest in (({"dt_rank": 16}, 0.25), ({"dt_rank": 9, "dt_scale": 6.0}, 2.0)):
        new = submission.run(new_parameters, 64, **options).output
        check_uniform("dt_proj.weight", new["dt_proj.weight"], -largest, largest)
    weight = submission.run(new_parameters, 8, dt_rank=4, dt_scale=3.0, dt_init="constant").output["dt_proj.weight"]
    expect.that(
        torch.allclose(weight, torch.tensor(1.5)),
        f"with dt_init='constant', dt_scale=3 and dt_rank=4 dt_proj.weight should be 1.5, not {weight[0, 0]:.4g}",
    )


@pytest.mark.points(1)
@pytest.mark.handout("initialisation")
def test_everything_else_begins_as_pytorch_draws_it(submission):
    """Other weights start like those of nn.Linear and nn.Conv1d: uniform between ±1/√(inputs per output)."""
    new = submission.run(new_parameters, 64, bias=True).output
    reads = {"in_proj.weight": 64, "in_proj.bias": 64, "x_proj.weight": 128, "conv1d.weight": 4, "conv1d.bias": 4}
    for name, number in (reads | {"out_proj.weight": 128, "out_proj.bias": 128}).items():
        check_uniform(name, new[name], -1 / math.sqrt(number), 1 / math.sqrt(number))


@pytest.mark.points(1)
@pytest.mark.handout("initialisation")
def test_an_unknown_way_to_begin_is_refused(submission, draw):
    """dt_init must be "random" or "constant"; anything else raises a ValueError that names it."""
    x = draw.normal(1, 2, 8)
    got, ordinary = (submission.make("Mamba", 8, dt_init=name).call(x) for name in ("zeros", "constant"))
    expect(got).raises(ValueError, mentioning=["zeros"], unlike=ordinary)


# --- the block: step by step ----------------------------------------------------------------------------------------


def stepped(module, sizes, weights, hidden_states, prompt=0):
    """A prompt at once, into states with other contents, and the rest step by step."""
    block = module.Mamba(**sizes).to(hidden_states.dtype)
    block.load_state_dict(weights)
    conv_state, ssm_state = block.allocate_inference_cache(hidden_states.size(0), hidden_states.size(1))
    outputs = []
    with torch.no_grad():
        if prompt:
            conv_state.fill_(7.0), ssm_state.fill_(-7.0)
            outputs.append(block(hidden_states[:, :prompt], states=(conv_state, ssm_state)))
        for t in range(prompt, hidden_states.size(1)):
            outputs.append(block.step(hidden_states[:, t : t + 1], conv_state, ssm_state)[0])
    return torch.cat(outputs, dim=1), conv_state, ssm_state


@pytest.mark.points(1)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.handout("step")
def test_step_by_step_gives_what_the_whole_gives(submission, draw, batch):
    """Steps of one position, with the states carried along, yield the whole sequence's result and states."""
    weights, hidden_states = weights_for(draw, **SIZES), draw.normal(batch, 8, 20)
    got = submission.run(stepped, SIZES, weights, hidden_states)
    expect(got).close_to(oracle.mamba_and_states, weights, hidden_states)


@pytest.mark.points(whole=1, steps=1)
@pytest.mark.parametrize("option", ["biases", "ones", "sizes"])
@pytest.mark.handout("weights")
def test_every_option_counts(submission, draw, part, option):
    """Biases, sizes and ranks may differ from the defaults, for whole sequences and step by step."""
    for options in OPTIONS[option]:
        sizes = SIZES | options
        weights, hidden_states = weights_for(draw, **sizes), draw.normal(2, 6, 20)
        with part("whole"):
            got = submission.make("Mamba", **sizes).load(weights).call(hidden_states, grad=True)
            expect(got).close_to(oracle.mamba, weights, hidden_states)
        with part("steps"):
            got = submission.run(stepped, sizes, weights, hidden_states)
            expect(got).close_to(oracle.mamba_and_states, weights, hidden_states)


@pytest.mark.points(2)
@pytest.mark.handout("prompt")
def test_a_prompt_fills_the_states(submission, draw):
    """forward with states starts a new sequence, ignores their contents, and leaves them ready for steps."""
    for prompt in (9, 1, 3):
        weights, hidden_states = weights_for(draw, **SIZES), draw.normal(2, prompt + 6, 20)
        for length in (prompt, prompt + 6):
            got = submission.run(stepped, SIZES, weights, hidden_states[:, :length], prompt)
            expect(got).close_to(oracle.mamba_and_states, weights, hidden_states[:, :length])


def stepped_in_a_pool(module, sizes, weights, hidden_states, conv_pool, ssm_pool):
    """Step with states at every other place of a pool."""
    block = module.Mamba(**sizes)
    block.load_state_dict(weights)
    with torch.no_grad():
        for x in hidden_states.split(1, dim=1):
            output, conv_state, ssm_state = block.step(x, conv_pool[::2], ssm_pool[::2])
    return output, conv_state, ssm_state, conv_pool, ssm_pool


@pytest.mark.points(1)
@pytest.mark.handout("step")
def test_states_are_written_where_they_lie(submission, draw):
    """The states are updated in place, even as slices of larger tensors, and the updated states are returned."""
    weights, hidden_states = weights_for(draw, **SIZES), draw.normal(2, 5, 20)
    conv_pool, ssm_pool = torch.zeros(4, 40, 4), torch.zeros(4, 40, 3)
    conv_pool[1::2], ssm_pool[1::2] = draw.normal(2, 40, 4), draw.normal(2, 40, 3)

    def pooled(weights, hidden_states, conv_pool, ssm_pool):
        output, *states = oracle.mamba_and_states(weights, hidden_states)
        pools = [
            torch.stack([state, pool[1::2]], 1).flatten(0, 1)
            for state, pool in zip(states, (conv_pool, ssm_pool), strict=True)
        ]
        return output[:, -1:], *states, *pools

    got = submission.run(stepped_in_a_pool, SIZES, weights, hidden_states, conv_pool, ssm_pool)
    pools = [conv_pool, ssm_pool]
    expect(got).close_to(pooled, weights, hidden_states, *pools, writes=pools)


def stepped_in_turns(module, sizes, weights, several):
    """Several texts, one step of each in turn, each with its own states."""
    block = module.Mamba(**sizes)
    block.load_state_dict(weights)
    states = [block.allocate_inference_cache(each.size(0), 99) for each in several]
    outputs = [[] for _ in several]
    with torch.no_grad():
        for t in range(several[0].size(1)):
            for each, made, (conv_state, ssm_state) in zip(several, outputs, states, strict=True):
                made.append(block.step(each[:, t : t + 1], conv_state, ssm_state)[0])
    return [torch.cat(made, dim=1) for made in outputs]


@pytest.mark.points(1)
@pytest.mark.handout("step")
def test_a_block_remembers_nothing_by_itself(submission, draw):
    """Several texts may be read in turns: all memory is in the states, and each call allocates new ones."""
    weights, several = weights_for(draw, **SIZES), [draw.normal(batch, 5, 20) for batch in (2, 2, 1)]

    def apart(weights, several):
        return [oracle.mamba(weights, each) for each in several]

    got = submission.run(stepped_in_turns, SIZES, weights, several)
    expect(got).close_to(apart, weights, several, dims=oracle.mamba.dims)


def new_states(module, sizes, weights_dtype, batch_size, max_seqlen, dtype):
    block = module.Mamba(**sizes).to(weights_dtype)
    return list(block.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype))


@pytest.mark.points(1)
@pytest.mark.handout("step")
def test_states_begin_as_zeros(submission):
    """New states are zeros of the right shapes and dtypes, for any max_seqlen."""
    half, single, double = torch.float16, torch.float32, torch.float64
    for dtype, wanted, dtypes in (
        (single, None, (single, single)),
        (double, None, (double, double)),
        (half, None, (half, single)),
        (single, half, (half, half)),
    ):
        for length in (1, 10**9):
            got = submission.run(new_states, SIZES, dtype, 5, length, wanted)
            shapes = ((5, 40, 4), (5, 40, 3))
            zeros = [torch.zeros(*shape, dtype=each) for shape, each in zip(shapes, dtypes, strict=True)]
            expect(got).equal_to(zeros)


@pytest.mark.points(1)
@pytest.mark.handout("step")
def test_a_step_is_one_position(submission, draw):
    """step with several positions raises a ValueError that says how many."""
    states = torch.zeros(1, 40, 4), torch.zeros(1, 40, 3)
    ordinary, *refused = (
        submission.make("Mamba", **SIZES).call(draw.normal(1, length, 20), *states, method="step")
        for length in (1, 2, 5)
    )
    for got, length in zip(refused, (2, 5), strict=True):
        expect(got).raises(ValueError, mentioning=[length], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("precision")
def test_steps_are_as_accurate_in_16_bits(submission, draw):
    """In 16 bits, steps are as accurate as the dtype allows, and the state of the scan is float32."""
    for dtype in (torch.float16, torch.bfloat16):
        weights, hidden_states = weights_for(draw, dtype, **SIZES), draw.normal(2, 6, 20, dtype=dtype)
        got = submission.run(stepped, SIZES, weights, hidden_states, 2)
        dtypes = [dtype, dtype, torch.float32]
        expect(got).close_to(oracle.mamba_and_states, weights, hidden_states, dtypes=dtypes)


def grown(module, sizes, weights, hidden_states):
    """The amount added to a state of 256."""
    block = module.Mamba(**sizes).to(hidden_states.dtype)
    block.load_state_dict(weights)
    conv_state, ssm_state = block.allocate_inference_cache(1, 100)
    ssm_state.fill_(256.0)
    with torch.no_grad():
        for x in hidden_states.split(1, dim=1):
            block.step(x, conv_state, ssm_state)
    return ssm_state.item() - 256


@pytest.mark.points(1)
@pytest.mark.handout("precision")
def test_a_long_text_does_not_stall_in_16_bits(submission):
    """Even in bfloat16, a state keeps growing if each of 100 steps adds a little."""
    one, sizes = torch.ones(1, 1), {"d_model": 1, "d_state": 1, "d_conv": 1, "expand": 1, "conv_bias": False}
    weights = {"in_proj.weight": torch.ones(2, 1), "x_proj.weight": torch.ones(3, 1), "dt_proj.weight": 0 * one}
    weights |= {"conv1d.weight": one[None], "A_log": -20 * one, "out_proj.weight": one}  # it forgets nothing
    weights |= {"dt_proj.bias": torch.zeros(1), "D": torch.zeros(1)}
    weights = {name: weight.bfloat16() for name, weight in weights.items()}
    got = submission.run(grown, sizes, weights, torch.ones(1, 100, 1, dtype=torch.bfloat16)).output
    right = 100 * math.log(2) / (1 + math.exp(-1)) ** 2
    expect.that(
        0.9 < got / right < 1.1,
        f"100 equal steps add {got:.4g} to a state of 256, instead of {right:.4g}: in bfloat16, with its 8 "
        "significant bits, a step's contribution is rounded away. The state of the scan must be float32.",
    )


def forgotten(module, sizes, weights, hidden_states, one_by_one):
    """What the state of the scan still holds after these inputs."""
    block = module.Mamba(**sizes).to(hidden_states.dtype)
    block.load_state_dict(weights)
    states = block.allocate_inference_cache(1, 16)[0], torch.zeros(1, 1, sizes["d_state"])
    with torch.no_grad():
        if one_by_one:
            for x in hidden_states.split(1, dim=1):
                block.step(x, *states)
        else:
            block(hidden_states, states)
    return states[1]


@pytest.mark.points(2)
@pytest.mark.parametrize("one_by_one", [False, True], ids=["sequence", "steps"])
@pytest.mark.handout("precision")
def test_decays_are_not_rounded_to_16_bits(submission, one_by_one):
    """A = -exp(A_log) is float32 in a bfloat16 block: fifteen positions later, a rounded one has forgotten too much."""
    sizes = {"d_model": 1, "d_state": 16, "d_conv": 1, "expand": 1, "conv_bias": False}
    weights = {"in_proj.weight": torch.ones(2, 1), "x_proj.weight": torch.ones(33, 1), "D": torch.zeros(1)}
    weights |= {"conv1d.weight": torch.ones(1, 1, 1), "out_proj.weight": torch.ones(1, 1)}
    weights |= {"dt_proj.weight": torch.zeros(1, 1), "dt_proj.bias": torch.tensor([32.0])}  # Δ = 32, softplus or not
    weights |= {"A_log": torch.linspace(-3.0, -2.0, 16)[None]}
    weights = {name: weight.bfloat16() for name, weight in weights.items()}
    impulse = torch.eye(16)[0].view(1, 16, 1).bfloat16()  # one input, then nothing: from there on the state only decays
    left = submission.run(forgotten, sizes, weights, impulse, one_by_one).output
    _, _, right = oracle.mamba_and_states({name: each.double() for name, each in weights.items()}, impulse.double())
    off = (left / right - 1).abs().max().item()
    expect.that(
        off < 0.02,
        f"fifteen positions after an input, what the state holds of it is off by up to {off:.1%}, where 16-bit weights "
        "explain less than 1%: compute A = -exp(A_log) in float32, also in a 16-bit block",
    )


@st.composite
def blocks(draw):
    """Any legal block, and how its input is split into prompt and steps."""
    sizes = {
        "d_model": draw(st.integers(1, 17)),
        "d_state": draw(st.integers(1, 5)),
        "d_conv": draw(st.integers(1, 5)),
        "expand": draw(st.integers(1, 3)),
        "dt_rank": draw(st.sampled_from(["auto", 1, 3])),
        "conv_bias": draw(st.booleans()),
        "bias": draw(st.booleans()),
    }
    length = draw(st.integers(1, 12))
    return {
        "sizes": sizes,
        "shape": (draw(st.integers(1, 3)), length),
        "prompt": draw(st.integers(0, length)),
        "scale": draw(st.sampled_from([0.1, 1.0, 5.0])),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.points(1)
@pytest.mark.handout("prompt")
@settings(max_examples=20)
@given(case=blocks())
def test_any_legal_block_is_right(submission, draw, case):
    """Sizes, options, lengths and prompts work in any combination."""
    draw.generator.manual_seed(draw.seed + case["seed"])  # so that a repeated example is the same
    sizes, width = case["sizes"], case["sizes"]["d_model"]
    weights = weights_for(draw, **sizes)
    hidden_states = draw.normal(*case["shape"], width, scale=case["scale"])
    got = submission.run(stepped, sizes, weights, hidden_states, case["prompt"])
    expect(got).close_to(oracle.mamba_and_states, weights, hidden_states)


# --- the language model ---------------------------------------------------------------------------------------------

CONFIG = {
    "model_type": "mamba",
    "vocab_size": 13,
    "hidden_size": 8,
    "state_size": 3,
    "num_hidden_layers": 3,
    "conv_kernel": 4,
    "expand": 2,
    "intermediate_size": 16,
    "time_step_rank": 1,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "layer_norm_epsilon": 1e-3,
    "residual_in_fp32": True,
    "tie_word_embeddings": True,
}
VARIANTS = {
    "all-biases": {"use_bias": True},
    "no-conv-bias": {"use_conv_bias": False},
    "other-sizes": {"conv_kernel": 2, "expand": 3, "intermediate_size": 24, "time_step_rank": 4},
    "untied": {"tie_word_embeddings": False},
}


def shapes_of_model(config):
    """The state dict of a MambaForCausalLM."""
    vocabulary, width = config["vocab_size"], config["hidden_size"]
    mixer = shapes_of(
        width,
        config["state_size"],
        config["conv_kernel"],
        config["expand"],
        config["time_step_rank"],
        config["use_conv_bias"],
        config["use_bias"],
    )
    shapes = {"backbone.embeddings.weight": (vocabulary, width), "backbone.norm_f.weight": (width,)}
    for number in range(config["num_hidden_layers"]):
        prefix = f"backbone.layers.{number}"
        shapes |= {f"{prefix}.norm.weight": (width,)}
        shapes |= {f"{prefix}.mixer.{name}": shape for name, shape in mixer.items()}
    return shapes | {"lm_head.weight": (vocabulary, width)}


def weights_of_model(draw, config, dtype="float32"):
    """Weights for the oracle: tied embeddings occur only once."""
    shapes = shapes_of_model(config)
    if config["tie_word_embeddings"]:
        del shapes["lm_head.weight"]
    return {name: draw.normal(*shape, dtype=dtype, scale=0.5) for name, shape in shapes.items()}


def logits_of(module, config, weights, input_ids):
    model = module.MambaLM(SimpleNamespace(**config)).to(weights["backbone.embeddings.weight"].dtype)
    model.load_state_dict({"lm_head.weight": weights["backbone.embeddings.weight"]} | weights)
    return model.eval()(input_ids)


def gradients_of_logits(module, config, above, weights, input_ids):
    model = module.MambaLM(SimpleNamespace(**config))
    model.load_state_dict({"lm_head.weight": weights["backbone.embeddings.weight"]} | weights)
    named = dict(model.named_parameters(remove_duplicate=False))
    found = torch.autograd.grad(model(input_ids), [named[name] for name in weights], above)
    return {f"gradient of {name}": gradient for name, gradient in zip(weights, found, strict=True)}


def shapes_in_model(module, config):
    model = module.MambaLM(SimpleNamespace(**config))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.points(1)
@pytest.mark.handout("model")
def test_the_model_s_state_dict_is_transformers_s(submission):
    """The parameters have the names and shapes of MambaForCausalLM's."""
    for config in (CONFIG, *(CONFIG | variant for variant in VARIANTS.values())):
        check_state_dict(submission.run(shapes_in_model, config).output, shapes_of_model(config))


@pytest.mark.points(output=2, gradients=2)
@pytest.mark.handout("model")
def test_the_model_gives_transformers_logits(submission, draw, part):
    """With the weights of a MambaForCausalLM, it returns that model's logits and gradients."""
    weights, input_ids = weights_of_model(draw, CONFIG), draw.integers(0, 13, 2, 7)
    with part("output"):
        got = submission.run(logits_of, CONFIG, weights, input_ids)
        expect(got).close_to(oracle.language_model, weights, input_ids, CONFIG)
    with part("gradients"):
        above = draw.normal(2, 7, 13)
        got = submission.run(gradients_of_logits, CONFIG, above, weights, input_ids)
        expect(got).close_to(gradients_of(oracle.language_model), above, weights, input_ids, CONFIG)


@pytest.mark.points(2)
@pytest.mark.handout("model")
def test_every_field_of_the_configuration_counts(submission, draw):
    """Biases, sizes, ranks and untied head weights follow the configuration."""
    for variant in VARIANTS.values():
        config = CONFIG | variant
        weights, input_ids = weights_of_model(draw, config), draw.integers(0, 13, 1, 5)
        got = submission.run(logits_of, config, weights, input_ids)
        expect(got).close_to(oracle.language_model, weights, input_ids, config)


def logits_of_new_model(module, config, state, input_ids):
    from transformers import MambaConfig

    model = module.MambaLM(MambaConfig(**config))
    model.load_state_dict(state)
    return model.eval()(input_ids)


@pytest.mark.points(1)
@pytest.mark.handout("model")
def test_it_takes_a_model_of_transformers_as_it_is(submission, draw):
    """Built from a MambaConfig, it loads a MambaForCausalLM's state dict unchanged and returns its logits."""
    from transformers import MambaConfig, MambaForCausalLM

    sizes = {"vocab_size": 31, "hidden_size": 40, "state_size": 6, "num_hidden_layers": 2}
    torch.manual_seed(draw.seed)
    theirs = MambaForCausalLM(MambaConfig(**sizes))
    state = {name: tensor.detach().clone() for name, tensor in theirs.state_dict().items()}
    input_ids = draw.integers(0, 31, 2, 9)
    got = submission.run(logits_of_new_model, sizes, state, input_ids)
    expect(got).close_to(oracle.language_model, state, input_ids, sizes | {"layer_norm_epsilon": 1e-5})


def tied(module, config):
    model = module.MambaLM(SimpleNamespace(**config))
    named = dict(model.named_parameters(remove_duplicate=False))
    return named["lm_head.weight"] is named["backbone.embeddings.weight"]


@pytest.mark.points(1)
@pytest.mark.handout("model")
def test_tied_weights_are_one_parameter(submission):
    """With tie_word_embeddings, head and embeddings are one parameter; without it, they are two."""
    for tie in (True, False):
        found = submission.run(tied, CONFIG | {"tie_word_embeddings": tie}).output
        expect.that(
            found == tie,
            f"with tie_word_embeddings={tie} lm_head.weight and backbone.embeddings.weight should be "
            + ("one parameter" if tie else "two parameters"),
        )


@pytest.mark.points(1)
@pytest.mark.handout("precision")
def test_logits_are_float32_in_16_bits(submission, draw):
    """A 16-bit model returns float32 logits, as accurate as its dtype allows."""
    for dtype, in_fp32 in (("float16", True), ("bfloat16", True), ("bfloat16", False)):
        config = CONFIG | {"num_hidden_layers": 2, "residual_in_fp32": in_fp32}
        weights, input_ids = weights_of_model(draw, config, dtype), draw.integers(0, 13, 2, 6)
        got = submission.run(logits_of, config, weights, input_ids)
        expect(got).close_to(oracle.language_model, weights, input_ids, config, dtypes=[torch.float32])


@pytest.mark.points(1)
@pytest.mark.handout("precision")
def test_many_blocks_add_up_in_16_bits(submission):
    """With residual_in_fp32, what each of 40 blocks adds to a large sum is not rounded away in bfloat16."""
    config = CONFIG | {"vocab_size": 2, "hidden_size": 2, "intermediate_size": 4, "state_size": 1}
    config |= {"num_hidden_layers": 40, "residual_in_fp32": True, "tie_word_embeddings": False}
    weights = {name: torch.zeros(*shape) for name, shape in shapes_of_model(config).items()}
    weights["backbone.embeddings.weight"] += 256
    weights["backbone.norm_f.weight"] += 1
    weights["lm_head.weight"] += torch.eye(2)
    for number in range(40):  # each adds about 0.8 to the first of the two channels
        prefix = f"backbone.layers.{number}"
        weights[f"{prefix}.norm.weight"] += 1
        weights[f"{prefix}.mixer.in_proj.weight"] += 0.5
        weights[f"{prefix}.mixer.conv1d.weight"][..., -1] = 1
        weights[f"{prefix}.mixer.D"] += 1
        weights[f"{prefix}.mixer.out_proj.weight"][0] = 0.375
    weights = {name: weight.bfloat16() for name, weight in weights.items()}
    input_ids = torch.zeros(1, 1, dtype=torch.int64)
    exact = {name: weight.double() for name, weight in weights.items()}
    first, second = oracle.language_model(exact, input_ids, config).flatten().tolist()
    got = submission.run(logits_of, config, weights, input_ids).output.flatten().tolist()
    expect.that(
        abs(math.log(got[0] / got[1]) / math.log(first / second) - 1) < 0.25,
        f"40 blocks should raise the first of two equal channels by {first / second - 1:.1%}; here they raise it by "
        f"{got[0] / got[1] - 1:.1%}: in bfloat16, 256 + 0.8 is 256 again. The sum must be kept in float32.",
    )


# --- the language model: token by token -----------------------------------------------------------------------------


def decoded(module, config, weights, input_ids, prompt=0):
    """The prompt at once, into states used by another text, and the rest token by token."""
    model = module.MambaLM(SimpleNamespace(**config))
    model.load_state_dict({"lm_head.weight": weights["backbone.embeddings.weight"]} | weights)
    model.eval()
    states = model.allocate_inference_cache(input_ids.size(0), input_ids.size(1))
    logits = []
    with torch.no_grad():
        if prompt:
            model(input_ids.flip(1), states=states)
            logits.append(model(input_ids[:, :prompt], states=states))
        for t in range(prompt, input_ids.size(1)):
            output, states = model.step(input_ids[:, t : t + 1], states)
            logits.append(output)
    return torch.cat(logits, dim=1)


@pytest.mark.points(2)
@pytest.mark.handout("generating")
def test_token_by_token_gives_what_one_pass_gives(submission, draw):
    """Steps of one token yield the logits of one pass over all tokens, for one text or three."""
    for batch in (1, 3):
        weights, input_ids = weights_of_model(draw, CONFIG), draw.integers(0, 13, batch, 7)
        got = submission.run(decoded, CONFIG, weights, input_ids)
        expect(got).close_to(oracle.language_model, weights, input_ids, CONFIG)


@pytest.mark.points(2)
@pytest.mark.handout("generating")
def test_a_prompt_is_read_in_one_pass(submission, draw):
    """A prompt at once, then single tokens, yield the logits of one pass, even in states used by another text."""
    for prompt, variant in ((6, {}), (1, {}), (2, VARIANTS["other-sizes"] | VARIANTS["all-biases"])):
        config = CONFIG | variant
        weights, input_ids = weights_of_model(draw, config), draw.integers(0, 13, 2, 9)
        got = submission.run(decoded, config, weights, input_ids, prompt)
        expect(got).close_to(oracle.language_model, weights, input_ids, config)


def decoded_in_turns(module, config, weights, several):
    model = module.MambaLM(SimpleNamespace(**config))
    model.load_state_dict({"lm_head.weight": weights["backbone.embeddings.weight"]} | weights)
    model.eval()
    states = [model.allocate_inference_cache(each.size(0), 99) for each in several]
    logits = [[] for _ in several]
    with torch.no_grad():
        for t in range(several[0].size(1)):
            for each, made, own in zip(several, logits, states, strict=True):
                made.append(model.step(each[:, t : t + 1], own)[0])
    return [torch.cat(made, dim=1) for made in logits]


@pytest.mark.points(1)
@pytest.mark.handout("generating")
def test_states_belong_to_the_caller(submission, draw):
    """Several texts may be generated in turns: the given states are updated, and nothing else is remembered."""
    weights, several = weights_of_model(draw, CONFIG), [draw.integers(0, 13, batch, 5) for batch in (2, 2, 1)]

    def apart(weights, several, config):
        return [oracle.language_model(weights, each, config) for each in several]

    got = submission.run(decoded_in_turns, CONFIG, weights, several)
    expect(got).close_to(apart, weights, several, CONFIG, dims=oracle.language_model.dims)


def shapes_of_new_states(module, config, batch_size, max_seqlen, dtype):
    states = module.MambaLM(SimpleNamespace(**config)).allocate_inference_cache(batch_size, max_seqlen, dtype=dtype)
    return [[(tuple(each.shape), str(each.dtype)) for each in states[number]] for number in range(len(states))]


@pytest.mark.points(1)
@pytest.mark.handout("generating")
def test_each_block_has_states_of_its_own(submission):
    """New states are separate for each block, by its number, and of the requested dtype."""
    for dtype, name in ((None, "torch.float32"), (torch.float16, "torch.float16")):
        found = submission.run(shapes_of_new_states, CONFIG, 2, 100, dtype).output
        right = [[((2, 16, 4), name), ((2, 16, 3), name)]] * 3
        found = [[tuple(each) for each in pair] for pair in found]
        expect.that(found == right, f"the states should be {right}, not {found}")


def cost_of_a_step(module, config, input_ids):
    """The numbers written by the operations of one step after these tokens, and the bytes of the states."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Ledger(TorchDispatchMode):
        written = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for each in result if isinstance(result, (list, tuple)) else [result]:
                self.written += each.numel() if isinstance(each, torch.Tensor) else 0
            return result

    model = module.MambaLM(SimpleNamespace(**config)).eval()
    states = model.allocate_inference_cache(1, input_ids.size(1) + 1)
    with torch.no_grad():
        model(input_ids[:, :-1], states=states)
        _, states = model.step(input_ids[:, -1:], states)
        with Ledger() as ledger:
            _, states = model.step(input_ids[:, -1:], states)
    tensors = [each for pair in states.values() for each in pair]
    return ledger.written, sum(each.untyped_storage().nbytes() for each in tensors)


@pytest.mark.points(2)
@pytest.mark.handout("cost")
def test_a_step_costs_the_same_after_any_text(submission, draw):
    """A step does the same work after 500 tokens as after 5, and the states take as many bytes."""
    short, long = (submission.run(cost_of_a_step, CONFIG, draw.integers(0, 13, 1, n)).output for n in (5, 500))
    expect.that(
        long[0] <= 1.1 * short[0],
        f"a step writes {short[0]:,} numbers after 5 tokens, {long[0]:,} after 500: it should need only the states",
    )
    expect.that(
        long[1] == short[1],
        f"the states take {short[1]:,} bytes after 5 tokens and {long[1]:,} after 500",
    )

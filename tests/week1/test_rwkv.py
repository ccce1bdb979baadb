"""Graded tests of week1/rwkv: the average that replaces attention, in both forms, then the modules around it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grading import expect
from tests.oracles import rwkv as oracle
from tests.oracles.gradients import gradients_of
from tests.oracles.precision import float32_inside

# What the exercise asks for: a hand-in that names it is looked at by a person (grading/course/review.py).
READY_MADE = (
    "RwkvForCausalLM",
    "RwkvModel",
    "RwkvBlock",
    "RwkvSelfAttention",
    "RwkvFeedForward",
    "rwkv_linear_attention",
    "rwkv_linear_attention_cpu",
    "RwkvLinearAttention",
    "AutoModelForCausalLM",
)

# --- wkv ------------------------------------------------------------------------------------------------------------


def drawn(draw, batch, length, channels, dtype="float32", scale=1.0):
    """time_decay, time_first, key and value."""
    time_decay, time_first = draw.normal(channels, dtype=dtype), draw.normal(channels, dtype=dtype)
    key = draw.normal(batch, length, channels, dtype=dtype, scale=scale)
    return time_decay, time_first, key, draw.normal(batch, length, channels, dtype=dtype)


@pytest.mark.points(1)
@pytest.mark.handout("example")
def test_the_worked_example(submission):
    """The handout's worked example is reproduced."""
    time_decay, time_first = torch.tensor([math.log(math.log(2))]), torch.zeros(1)  # w = ln 2, u = 0
    key, value = torch.zeros(1, 3, 1), torch.tensor([[[8.0], [2.0], [4.0]]])
    expect(submission.call("wkv", time_decay, time_first, key, value)).close_to(oracle.wkv)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("wkv")
def test_wkv_is_a_decaying_average_with_a_bonus(submission, draw, part):
    """Older tokens count less, the current one has a bonus; the gradients are right."""
    arguments = drawn(draw, 2, 7, 5)
    with part("output"):
        expect(submission.call("wkv", *arguments)).close_to(oracle.wkv)
    with part("gradients"):
        expect(submission.call("wkv", *arguments, grad=True)).close_to(oracle.wkv)


@pytest.mark.points(1)
@pytest.mark.handout("wkv")
def test_a_single_token_is_its_own_value(submission, draw):
    """A first token's average is its value, for any decay, bonus and key."""
    time_decay, time_first, key, value = drawn(draw, 3, 1, 5, scale=30.0)
    expect(submission.call("wkv", time_decay, 30 * time_first, key, value)).close_to(oracle.wkv)


@pytest.mark.points(1)
@pytest.mark.parametrize("extreme", [-20.0, 6.0])
@pytest.mark.handout("stability")
def test_channels_may_remember_everything_or_nothing(submission, draw, extreme):
    """Decays near 0 keep every token; large ones forget at once."""
    time_decay, time_first, key, value = drawn(draw, 2, 12, 6)
    time_decay[:4] = extreme
    expect(submission.call("wkv", time_decay, time_first, key, value, grad=True)).close_to(oracle.wkv)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("stability")
def test_keys_of_100_do_not_overflow(submission, draw, part):
    """Keys near 100 and near -100 work like any others, even in the same text."""
    time_decay, time_first, key, value = drawn(draw, 3, 9, 6)
    key[..., 0] += 100
    key[..., 1] -= 100
    key[..., 2] = torch.linspace(-100, 100, 9)
    key[..., 3] = torch.linspace(100, -100, 9)
    key[..., 4] = 100.0 * draw.integers(-1, 2, 3, 9)
    with part("output"):
        expect(submission.call("wkv", time_decay, time_first, key, value)).close_to(oracle.wkv)
    with part("gradients"):
        expect(submission.call("wkv", time_decay, time_first, key, value, grad=True)).close_to(oracle.wkv)


@pytest.mark.points(1)
@pytest.mark.handout("stability")
def test_large_bonuses_do_not_overflow(submission, draw):
    """A bonus of 100 leaves only the current token; one of -100 hides it."""
    time_decay, time_first, key, value = drawn(draw, 2, 7, 6)
    time_first += torch.tensor([100.0, -100.0]).repeat(3)
    expect(submission.call("wkv", time_decay, time_first, key, value, grad=True)).close_to(oracle.wkv)


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.handout("precision")
def test_every_dtype_is_as_accurate_as_it_can_be(submission, draw, dtype):
    """The result has the key's dtype and no more than its rounding error, or float32's in float64."""
    expect(submission.call("wkv", *drawn(draw, 2, 9, 5, dtype))).close_to(oracle.wkv, factor=float32_inside(dtype))


@pytest.mark.points(2)
@pytest.mark.handout("precision")
def test_long_texts_do_not_stall_in_half_precision(submission, draw):
    """The state is kept in float32: in bfloat16, a sum of ones stops growing at 256."""
    key = torch.zeros(1, 600, 2, dtype=torch.bfloat16)
    value = torch.where(torch.arange(600) < 300, 1.0, -1.0).bfloat16().reshape(1, -1, 1).expand(1, 600, 2)
    decay = torch.full((2,), -12.0, dtype=torch.bfloat16)
    expect(submission.call("wkv", decay, torch.zeros_like(decay), key, value)).close_to(oracle.wkv)


def remembered(module, name, *arguments):
    """The logarithm of what is left: of the sum in the state, or of the last token's average, powers of ten apart."""
    if name == "wkv":
        _, denominator, maximum = module.wkv(*arguments, return_state=True)[1]
        return denominator.double().log() + maximum
    return module.wkv_parallel(*arguments)[:, -1].double().log()


@pytest.mark.points(2)
@pytest.mark.parametrize("name", ["wkv", "wkv_parallel"])
@pytest.mark.handout("precision")
def test_decays_are_not_rounded_to_16_bits(submission, name):
    """w = exp(time_decay) is float32 for bfloat16 arguments: a rounded one forgets too much with every token."""
    arguments = torch.linspace(0.5, 1.5, 16), torch.zeros(16), torch.full((1, 16, 16), -100.0), torch.zeros(1, 16, 16)
    arguments = [each.bfloat16() for each in arguments]
    key, value = arguments[2:]
    key[:, 0], value[:, 0] = 0.0, 1.0  # later tokens weigh nothing,
    if name == "wkv_parallel":
        key[:, -1] = 0.0  # but the last one tells what is left of the first, beside itself
    left = submission.run(remembered, name, *arguments).output
    right = remembered(oracle, name, *(each.double() for each in arguments))
    off = (left - right).expm1().abs().max().item()
    expect.that(
        off < 0.02,
        f"what is left of a token fifteen tokens later is off by up to {off:.1%}, where 16-bit arguments explain less "
        "than 1%: compute w = exp(time_decay) in float32",
    )


@pytest.mark.points(1)
@pytest.mark.handout("wkv")
def test_inputs_need_not_be_contiguous(submission, draw):
    """Inputs and the incoming gradient may have any memory layout."""
    time_decay, time_first = draw.normal(10)[::2], draw.normal(5)
    key, value = draw.normal(7, 2, 5).transpose(0, 1), draw.normal(2, 7, 1).expand(2, 7, 5)
    got = submission.call("wkv", time_decay, time_first, key, value, grad=True, cotangent="transposed")
    expect(got).close_to(oracle.wkv)


# --- its state ------------------------------------------------------------------------------------------------------


def wkv_and_sums(module, time_decay, time_first, key, value, state=None):
    output, state = module.wkv(time_decay, time_first, key, value, state, True)
    numerator, denominator, maximum = state
    return output, numerator / denominator, torch.log(denominator) + maximum


@pytest.mark.points(1)
@pytest.mark.handout("state")
def test_the_state_holds_the_sums_after_the_last_token(submission, draw):
    """return_state adds numerator, denominator and maximum: the average so far and its weight."""
    arguments = drawn(draw, 2, 7, 5, scale=20.0)
    expect(submission.run(wkv_and_sums, *arguments)).close_to(oracle.wkv_and_sums)
    state = submission.call("wkv", *arguments, return_state=True).output[1]
    found = [(tuple(each.shape), str(each.dtype)) for each in state]
    expect.that(
        found == [((2, 5), "torch.float32")] * 3,
        f"the state should be three float32 tensors (2, 5), not {found}",
    )


@pytest.mark.points(2)
@pytest.mark.handout("state")
def test_a_state_is_what_came_before(submission, draw):
    """With a state the text continues: the past counts and keeps decaying. The state itself is not modified."""
    arguments = drawn(draw, 2, 7, 5)
    for maximum in (0.0, 60.0, -60.0):
        state = [draw.normal(2, 5), draw.uniform(2, 5, low=0.5, high=2.0), draw.normal(2, 5) + maximum]
        expect(submission.run(wkv_and_sums, *arguments, state)).close_to(oracle.wkv_and_sums)


@pytest.mark.points(1)
@pytest.mark.handout("state")
def test_an_empty_state_is_no_past(submission, draw):
    """Zeros with a maximum of -1e38 mean that there is no past."""
    arguments = drawn(draw, 2, 7, 5, scale=20.0)
    state = [torch.zeros(2, 5), torch.zeros(2, 5), torch.full((2, 5), -1e38)]
    expect(submission.run(wkv_and_sums, *arguments, state)).close_to(oracle.wkv_and_sums)


def wkv_in_pieces(module, time_decay, time_first, key, value, lengths):
    outputs, state = [], None
    for k, v in zip(key.split(lengths, dim=1), value.split(lengths, dim=1), strict=True):
        output, state = module.wkv(time_decay, time_first, k, v, state, True)
        outputs.append(output)
    return torch.cat(outputs, dim=1)


def gradients_of_pieces(module, above, time_decay, time_first, key, value, lengths):
    inputs = [each.requires_grad_() for each in (time_decay, time_first, key, value)]
    outputs, state = [], None
    for k, v in zip(key.split(lengths, dim=1), value.split(lengths, dim=1), strict=True):
        output, state = module.wkv(time_decay, time_first, k, v, state, True)
        outputs.append(output)
    names = ("time_decay", "time_first", "key", "value")
    found = torch.autograd.grad(torch.cat(outputs, dim=1), inputs, above)
    return {f"gradient of {name}": gradient for name, gradient in zip(names, found, strict=True)}


def gradients_of_wkv(above, time_decay, time_first, key, value):
    state = {"time_decay": time_decay, "time_first": time_first, "key": key, "value": value}
    return gradients_of(lambda state: oracle.wkv_parallel(**state))(above, state)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("state")
def test_a_text_may_come_in_pieces(submission, draw, part):
    """Pieces, each with the previous state, yield the same as the whole text, and gradients flow through the state."""
    arguments = drawn(draw, 3, 9, 5, scale=5.0)
    with part("output"):
        for lengths in ([4, 5], [1, 7, 1], [1] * 9):
            got = submission.run(wkv_in_pieces, *arguments, lengths)
            expect(got).close_to(oracle.wkv_parallel, *arguments)
    with part("gradients"):
        above = draw.normal(3, 9, 5)
        got = submission.run(gradients_of_pieces, above, *arguments, [4, 5])
        expect(got).close_to(gradients_of_wkv, above, *arguments)


@st.composite
def calls(draw):
    """Any legal call."""
    return {
        "sizes": (draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 5))),
        "scale": draw(st.sampled_from([0.1, 3.0, 40.0])),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.points(1)
@pytest.mark.handout("wkv")
@settings(max_examples=20)
@given(call=calls())
def test_any_legal_call_is_right(submission, draw, call):
    """Sizes, scales and dtypes work in any combination."""
    draw.generator.manual_seed(draw.seed + call["seed"])  # so that a repeated example is the same
    arguments, factor = drawn(draw, *call["sizes"], call["dtype"], call["scale"]), float32_inside(call["dtype"])
    expect(submission.call("wkv", *arguments)).close_to(oracle.wkv, factor=factor)


# --- wkv_parallel ---------------------------------------------------------------------------------------------------


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("parallel")
def test_the_parallel_form_gives_the_same(submission, draw, part):
    """The attention-like form returns the same averages and gradients."""
    arguments = drawn(draw, 2, 7, 5)
    with part("output"):
        expect(submission.call("wkv_parallel", *arguments)).close_to(oracle.wkv_parallel)
    with part("gradients"):
        expect(submission.call("wkv_parallel", *arguments, grad=True)).close_to(oracle.wkv_parallel)


@pytest.mark.points(1)
@pytest.mark.handout("parallel")
def test_the_parallel_form_of_any_dtype_and_layout(submission, draw):
    """The parallel form returns the key's dtype, as accurate as wkv, for arguments in any memory layout."""
    for dtype in ("float64", "float16", "bfloat16"):
        got = submission.call("wkv_parallel", *drawn(draw, 2, 9, 5, dtype))
        expect(got).close_to(oracle.wkv_parallel, factor=float32_inside(dtype))
    time_decay, time_first = draw.normal(10)[::2], draw.normal(5)
    key, value = draw.normal(7, 2, 5).transpose(0, 1), draw.normal(2, 7, 1).expand(2, 7, 5)
    got = submission.call("wkv_parallel", time_decay, time_first, key, value, grad=True, cotangent="transposed")
    expect(got).close_to(oracle.wkv_parallel)


@pytest.mark.points(1)
@pytest.mark.handout("parallel")
@settings(max_examples=20)
@given(call=calls())
def test_the_parallel_form_of_any_legal_call(submission, draw, call):
    """Sizes, scales and dtypes work in any combination in the parallel form."""
    draw.generator.manual_seed(draw.seed + call["seed"])  # so that a repeated example is the same
    arguments, factor = drawn(draw, *call["sizes"], call["dtype"], call["scale"]), float32_inside(call["dtype"])
    expect(submission.call("wkv_parallel", *arguments)).close_to(oracle.wkv_parallel, factor=factor)


@pytest.mark.points(1)
@pytest.mark.handout("stability")
def test_the_parallel_form_does_not_overflow(submission, draw):
    """Keys of ±100 and decays that forget at once work like any others."""
    time_decay, time_first, key, value = drawn(draw, 2, 40, 6)
    key += 100.0 * draw.integers(-1, 2, 1, 40, 6)
    time_decay[:2], time_decay[2:4] = 5.0, -20.0
    expect(submission.call("wkv_parallel", time_decay, time_first, key, value, grad=True)).close_to(oracle.wkv_parallel)


def operations(module, time_decay, time_first, key, value):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += 1
            return func(*args, **(kwargs or {}))

    with Counter() as counter:
        module.wkv_parallel(time_decay, time_first, key, value)
    return counter.count


@pytest.mark.points(2)
@pytest.mark.handout("parallel")
def test_the_parallel_form_does_not_go_from_token_to_token(submission, draw):
    """Sixteen times as many tokens take no more than three times as many operations."""
    short, long = (submission.run(operations, *drawn(draw, 1, length, 2)).output for length in (8, 128))
    expect.that(
        long <= 3 * short,
        f"8 tokens take {short} tensor operations, 128 tokens {long}: the parallel form should avoid a loop over "
        "the tokens",
    )


# --- TimeMix and ChannelMix -----------------------------------------------------------------------------------------

CONFIG = {
    "vocab_size": 13,
    "hidden_size": 8,
    "attention_hidden_size": 8,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "layer_norm_epsilon": 1e-3,
    "rescale_every": 6,
}
MODULES = {"TimeMix": oracle.time_mix, "ChannelMix": oracle.channel_mix}


def shapes_of(name, config):
    """The names and shapes in the state dicts of transformers' modules."""
    hidden, channels, inner = config["hidden_size"], config["attention_hidden_size"], config["intermediate_size"]
    if name == "TimeMix":
        mixes = {f"time_mix_{each}": (1, 1, hidden) for each in ("key", "value", "receptance")}
        inward = {f"{each}.weight": (channels, hidden) for each in ("key", "value", "receptance")}
        vectors = {"time_decay": (channels,), "time_first": (channels,)}
        return vectors | mixes | inward | {"output.weight": (hidden, channels)}
    if name == "ChannelMix":
        weights = {
            "key.weight": (inner, hidden),
            "receptance.weight": (hidden, hidden),
            "value.weight": (hidden, inner),
        }
        return {f"time_mix_{each}": (1, 1, hidden) for each in ("key", "receptance")} | weights
    shapes = {"rwkv.embeddings.weight": (config["vocab_size"], hidden), "head.weight": (config["vocab_size"], hidden)}
    for block in range(config["num_hidden_layers"]):
        parts = {"attention": shapes_of("TimeMix", config), "feed_forward": shapes_of("ChannelMix", config)}
        for norm in ("ln1", "ln2", *(["pre_ln"] if block == 0 else [])):
            parts[norm] = {"weight": (hidden,), "bias": (hidden,)}
        for part, inside in parts.items():
            shapes |= {f"rwkv.blocks.{block}.{part}.{name}": shape for name, shape in inside.items()}
    return shapes | {"rwkv.ln_out.weight": (hidden,), "rwkv.ln_out.bias": (hidden,)}


def weights_for(draw, name, config):
    return {key: draw.normal(*shape, scale=0.5) for key, shape in shapes_of(name, config).items()}


def shapes_in_state_dict(module, name, config):
    made = getattr(module, name)(SimpleNamespace(**config))
    return {key: tuple(tensor.shape) for key, tensor in made.state_dict().items()}


def check_state_dict(submission, name, config):
    found, expected = submission.run(shapes_in_state_dict, name, config).output, shapes_of(name, config)
    wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    expect.that(
        not wrong,
        f"the state dict of {name} differs from transformers': "
        + ", ".join(f"{key} is {found.get(key)}, not {expected.get(key)}" for key in wrong[:6]),
    )


def mixed(module, name, config, weights, hidden):
    made = getattr(module, name)(SimpleNamespace(**config))
    made.load_state_dict(weights)
    output, state = made(hidden)
    return output, state


def gradients_of_mixed(module, name, config, above, weights, hidden):
    made = getattr(module, name)(SimpleNamespace(**config))
    made.load_state_dict(weights)
    wanted = dict(made.named_parameters()) | {"hidden": hidden.requires_grad_()}
    found = torch.autograd.grad(made(hidden)[0], list(wanted.values()), above)
    return {f"gradient of {key}": gradient for key, gradient in zip(wanted, found, strict=True)}


@pytest.mark.points(1)
@pytest.mark.handout("time-mixing")
def test_the_state_dicts_are_transformers_s(submission):
    """The parameters of TimeMix and ChannelMix have the names and shapes of transformers' modules."""
    for name in MODULES:
        check_state_dict(submission, name, CONFIG)
        check_state_dict(submission, name, CONFIG | {"attention_hidden_size": 12})


@pytest.mark.points(output=2, gradients=2)
@pytest.mark.parametrize("name", ["TimeMix", "ChannelMix"])
@pytest.mark.handout("time-mixing")
def test_a_module_computes_what_transformers_module_computes(submission, draw, part, name):
    """With the weights of transformers' module, it returns that module's output and gradients."""
    weights, hidden = weights_for(draw, name, CONFIG), draw.normal(2, 7, 8)

    def module(weights, hidden):
        return MODULES[name](weights, hidden), None

    with part("output"):
        expect(submission.run(mixed, name, CONFIG, weights, hidden)).close_to(module, weights, hidden)
    with part("gradients"):
        above = draw.normal(2, 7, 8)
        got = submission.run(gradients_of_mixed, name, CONFIG, above, weights, hidden)
        expect(got).close_to(gradients_of(MODULES[name]), above, weights, hidden)


@pytest.mark.points(1)
@pytest.mark.handout("time-mixing")
def test_time_mixing_may_be_wider_than_the_model(submission, draw):
    """attention_hidden_size may differ from hidden_size."""
    config = CONFIG | {"attention_hidden_size": 12}
    weights, hidden = weights_for(draw, "TimeMix", config), draw.normal(3, 4, 8)

    def module(weights, hidden):
        return oracle.time_mix(weights, hidden), None

    expect(submission.run(mixed, "TimeMix", config, weights, hidden)).close_to(module, weights, hidden)


def in_pieces(module, name, config, weights, hidden, state, lengths):
    made = getattr(module, name)(SimpleNamespace(**config), layer_id=1)
    made.load_state_dict(weights)
    outputs = []
    with torch.no_grad():
        for piece in hidden.split(lengths, dim=1):
            output, state = made(piece, state=state)
            outputs.append(output)
    return torch.cat(outputs, dim=1)


def state_after(module, name, config, weights, hidden, state):
    made = getattr(module, name)(SimpleNamespace(**config), layer_id=2)
    made.load_state_dict(weights)
    with torch.no_grad():
        return list(made(hidden, state=state)[1])


def empty_state(batch, config):
    hidden, channels, layers = (config[key] for key in ("hidden_size", "attention_hidden_size", "num_hidden_layers"))
    state = [torch.zeros(batch, size, layers) for size in (hidden, hidden, channels, channels, channels)]
    state[4] -= 1e38
    return state


@pytest.mark.points(2)
@pytest.mark.parametrize("name", ["TimeMix", "ChannelMix"])
@pytest.mark.handout("token-shift")
def test_pieces_give_what_the_whole_gives(submission, draw, name):
    """In pieces or token by token, with the state carried along, it returns the same as for the whole text."""
    weights, hidden = weights_for(draw, name, CONFIG), draw.normal(3, 7, 8)
    for lengths in ([3, 4], [1, 5, 1], [1] * 7):
        state = empty_state(3, CONFIG)
        got = submission.run(in_pieces, name, CONFIG, weights, hidden, state, lengths)
        expect(got).close_to(MODULES[name], weights, hidden, writes=state)


@pytest.mark.points(1)
@pytest.mark.parametrize("name", ["TimeMix", "ChannelMix"])
@pytest.mark.handout("token-shift")
def test_a_module_keeps_to_its_part_of_the_state(submission, draw, name):
    """The last token is stored unchanged in the slice of the module's own layer; other slices are not modified."""
    config = CONFIG | {"attention_hidden_size": 12}
    weights, hidden = weights_for(draw, name, config), draw.normal(2, 5, 8)
    state = [draw.normal(*each.shape) for each in empty_state(2, config)]
    state[3] = state[3].exp()
    after = submission.run(state_after, name, config, weights, hidden, state).output
    mine = {"TimeMix": (1, 2, 3, 4), "ChannelMix": (0,)}[name]
    for number, (before, now) in enumerate(zip(state, after, strict=True)):
        same = now == before
        expect.that(same[..., :2].all(), f"the slices of other layers in state[{number}] were changed")
        if number not in mine:
            expect.that(same.all(), f"state[{number}] was changed, but it does not belong to {name}")
    expect.that(
        torch.equal(after[mine[0]][..., 2], hidden[:, -1]),
        f"state[{mine[0]}][..., 2] should be the last token unchanged, hidden[:, -1]",
    )


# --- RwkvLM ---------------------------------------------------------------------------------------------------------


def logits_of(module, config, weights, input_ids):
    model = module.RwkvLM(SimpleNamespace(**config))
    model.load_state_dict(weights)
    return model.eval()(input_ids)


def gradients_of_logits(module, config, above, weights, input_ids):
    model = module.RwkvLM(SimpleNamespace(**config))
    model.load_state_dict(weights)
    wanted = dict(model.named_parameters())
    found = torch.autograd.grad(model(input_ids), list(wanted.values()), above)
    return {f"gradient of {key}": gradient for key, gradient in zip(wanted, found, strict=True)}


def logits_in_pieces(module, config, weights, input_ids, lengths, state=None):
    model = module.RwkvLM(SimpleNamespace(**config))
    model.load_state_dict(weights)
    model.eval()
    logits = []
    with torch.no_grad():
        for piece in input_ids.split(lengths, dim=1):
            output, state = model(piece, state=state, use_cache=True)
            logits.append(output)
    return torch.cat(logits, dim=1)


@pytest.mark.points(1)
@pytest.mark.handout("model")
def test_the_model_s_state_dict_is_transformers_s(submission):
    """The parameters have the names and shapes of RwkvForCausalLM's."""
    check_state_dict(submission, "RwkvLM", CONFIG)


@pytest.mark.points(output=3, gradients=2)
@pytest.mark.handout("model")
def test_the_model_gives_transformers_logits(submission, draw, part):
    """With the weights of an RwkvForCausalLM, it returns that model's logits and gradients."""
    weights, input_ids = weights_for(draw, "RwkvLM", CONFIG), draw.integers(0, 13, 2, 7)
    with part("output"):
        got = submission.run(logits_of, CONFIG, weights, input_ids)
        expect(got).close_to(oracle.language_model, weights, input_ids, CONFIG)
    with part("gradients"):
        above = draw.normal(2, 7, 13)
        got = submission.run(gradients_of_logits, CONFIG, above, weights, input_ids)
        expect(got).close_to(gradients_of(oracle.language_model), above, weights, input_ids, CONFIG)


@pytest.mark.points(2)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.handout("generating")
def test_token_by_token_gives_what_one_pass_gives(submission, draw, batch):
    """T steps of one token, with the state carried along, yield the logits of one pass over T tokens."""
    weights, input_ids = weights_for(draw, "RwkvLM", CONFIG), draw.integers(0, 13, batch, 6)
    got = submission.run(logits_in_pieces, CONFIG, weights, input_ids, [1] * 6)
    expect(got).close_to(oracle.language_model, weights, input_ids, CONFIG)


@pytest.mark.points(1)
@pytest.mark.handout("generating")
def test_a_prompt_may_come_in_pieces(submission, draw):
    """Pieces of any length yield the logits of one pass, even if attention_hidden_size differs from hidden_size."""
    for config in (CONFIG, CONFIG | {"attention_hidden_size": 12}):
        weights, input_ids = weights_for(draw, "RwkvLM", config), draw.integers(0, 13, 3, 9)
        got = submission.run(logits_in_pieces, config, weights, input_ids, [4, 1, 1, 3])
        expect(got).close_to(oracle.language_model, weights, input_ids, config)


def forms(module, config, weights, input_ids):
    model = module.RwkvLM(SimpleNamespace(**config))
    model.load_state_dict(weights)
    with torch.no_grad():
        plain = model(input_ids)
        cached, state = model(input_ids, use_cache=True)
        return plain, cached, model(input_ids, state=state)


def shapes_of_state(module, config, input_ids):
    _, state = module.RwkvLM(SimpleNamespace(**config))(input_ids, use_cache=True)
    return [tuple(each.shape) for each in state]


@pytest.mark.points(1)
@pytest.mark.handout("generating")
def test_a_state_comes_back_when_it_is_asked_for(submission, draw):
    """Only use_cache adds the five tensors of the state to the logits; passing a state does not."""
    config = CONFIG | {"attention_hidden_size": 12}
    weights, input_ids = weights_for(draw, "RwkvLM", config), draw.integers(0, 13, 2, 5)

    def once_and_again(weights, input_ids, config):
        both = oracle.language_model(weights, torch.cat([input_ids, input_ids], 1), config)
        return both[:, :5], both[:, :5], both[:, 5:]

    got = submission.run(forms, config, weights, input_ids)
    expect(got).close_to(once_and_again, weights, input_ids, config)
    found = submission.run(shapes_of_state, config, input_ids).output
    expected = [(2, 8, 3), (2, 8, 3), (2, 12, 3), (2, 12, 3), (2, 12, 3)]
    expect.that(found == expected, f"the state should be five tensors {expected}, not {found}")


@pytest.mark.points(1)
@pytest.mark.handout("generating")
def test_it_goes_on_from_transformers_state(submission, draw):
    """The submission can continue from the state of an RwkvForCausalLM."""
    from transformers import RwkvConfig, RwkvForCausalLM

    weights, input_ids = weights_for(draw, "RwkvLM", CONFIG), draw.integers(0, 13, 3, 9)
    theirs = RwkvForCausalLM(RwkvConfig(**CONFIG)).eval()
    theirs.load_state_dict(weights)
    with torch.no_grad():
        state = theirs(input_ids[:, :5], use_cache=True).state

    def rest(weights, input_ids, config):
        return oracle.language_model(weights, input_ids, config)[:, 5:]

    got = submission.run(logits_in_pieces, CONFIG, weights, input_ids[:, 5:].contiguous(), [2, 2], state)
    expect(got).close_to(rest, weights, input_ids, CONFIG, writes=state)

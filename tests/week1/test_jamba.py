"""Graded tests of week1/jamba: the schedule, the model with every way of reading, and the cost of its cache."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from grading import expect
from tests.oracles import jamba as oracle
from tests.oracles.gradients import gradients_of
from tests.oracles.precision import float32_inside

# What the exercise asks for: a hand-in that names it is looked at by a person (grading/course/review.py).
READY_MADE = (
    "JambaForCausalLM",
    "JambaModel",
    "JambaMambaMixer",
    "JambaAttention",
    "JambaSparseMoeBlock",
    "JambaAttentionDecoderLayer",
    "JambaMambaDecoderLayer",
    "AutoModelForCausalLM",
    "selective_scan_fn",
)

CONFIGS = Path(__file__).parents[2] / "exercises" / "week1" / "configs"

# --- layer_schedule -------------------------------------------------------------------------------------------------


def right_schedule(layers, attention, experts):
    """The kinds of the layers, from the numbers of those with attention and of those with experts."""
    return [("attention" if i in attention else "mamba", "moe" if i in experts else "mlp") for i in range(layers)]


@pytest.mark.points(1)
@pytest.mark.handout("schedule")
def test_the_schedule_of_jamba(submission):
    """Of 32 layers, the fifth of every eight has attention, and every second one has experts."""
    got = submission.call("layer_schedule", 32)
    expect(got).equal_to(right_schedule(32, {4, 12, 20, 28}, set(range(1, 32, 2))))


@pytest.mark.points(1)
@pytest.mark.handout("schedule")
def test_any_number_of_layers(submission):
    """The number of layers need not be a multiple of a period, and may be 0."""
    for layers in (0, 1, 5, 13):
        got = submission.call("layer_schedule", layers)
        expect(got).equal_to(right_schedule(layers, {4, 12}, {1, 3, 5, 7, 9, 11}))


@pytest.mark.points(2)
@pytest.mark.handout("schedule")
def test_other_periods_and_offsets(submission):
    """The given periods and offsets are used, separately for attention and experts."""
    got = submission.call("layer_schedule", 10, 3, 1, 4, 2)
    expect(got).equal_to(right_schedule(10, {1, 4, 7}, {2, 6}))
    got = submission.call("layer_schedule", 3, attn_layer_period=1, attn_layer_offset=0, expert_layer_period=3)
    expect(got).equal_to(right_schedule(3, {0, 1, 2}, {1}))


@pytest.mark.points(1)
@pytest.mark.handout("schedule")
def test_an_offset_beyond_its_period_is_refused(submission):
    """An offset that no layer has raises a ValueError."""
    ordinary = submission.call("layer_schedule", 8, 8, 7)
    for arguments, named in (((8, 6, 7), [6, 7]), ((8, 8, 4, 5, 9), [5, 9]), ((8, 8, 8), [8]), ((8, 6, -2), [6, -2])):
        got = submission.call("layer_schedule", *arguments)
        expect(got).raises(ValueError, mentioning=named, unlike=ordinary)


# --- JambaLM --------------------------------------------------------------------------------------------------------

SMALL = {
    "model_type": "jamba", "vocab_size": 31, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2,
    "attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 0,
    "mamba_d_state": 4, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 3, "mamba_conv_bias": True,
    "mamba_proj_bias": False, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "initializer_range": 0.02,
    "hidden_act": "silu", "max_position_embeddings": 64, "pad_token_id": 0, "use_cache": True, "attention_dropout": 0.0,
}  # fmt: skip
MODELS: dict[str, dict] = {
    "small": {},
    "biases": {
        "mamba_proj_bias": True, "mamba_conv_bias": False, "attn_layer_period": 2, "attn_layer_offset": 0,
        "expert_layer_period": 3, "expert_layer_offset": 2,
    },
    "one dense layer": {"num_experts": 1, "num_hidden_layers": 1},
    "tied": {"tie_word_embeddings": True, "mamba_d_conv": 2, "num_experts_per_tok": 1},
    "attention only": {"attn_layer_period": 1, "attn_layer_offset": 0, "num_hidden_layers": 2},
    "mamba only": {"attn_layer_period": 8, "attn_layer_offset": 4, "num_hidden_layers": 3},
}  # fmt: skip
EVERY_MODEL = pytest.mark.parametrize(
    "name", ["small", "biases", "one dense layer", "tied", "attention only", "mamba only"]
)


def weights(draw, config, dtype="float32", scale=0.4):
    state = {
        name: draw.normal(*shape, dtype=dtype, scale=scale, mean=1.0 if "layernorm" in name else 0.0)
        for name, shape in oracle.shapes_of(config).items()
    }
    if config["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    return state


def padded_left(*lengths):
    """attention_mask of a batch whose rows have these lengths."""
    return (torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]).long()


def shapes_and_sharing(module, config):
    """The shapes of the state dict, and the total size of the distinct parameters."""
    model = module.JambaLM(SimpleNamespace(**config))
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    return shapes, sum(parameter.numel() for parameter in model.parameters())


def read(module, config, state, input_ids, attention_mask=None, pieces=None):
    """The logits at all tokens that are not padding, of a text read at once or in pieces."""
    model = module.JambaLM(SimpleNamespace(**config)).to(state["lm_head.weight"].dtype).eval()
    model.load_state_dict(state)
    real = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()
    if pieces is None:
        return model(input_ids, attention_mask)[real]
    cache, logits, end = None, [], 0
    with torch.no_grad():
        for length in pieces:
            start, end = end, end + length
            mask = None if attention_mask is None else attention_mask[:, :end]
            piece, cache = model(input_ids[:, start:end], attention_mask=mask, cache=cache, use_cache=True)
            logits.append(piece)
    return torch.cat(logits, 1)[real]


def gradients(module, config, above, state, input_ids):
    model = module.JambaLM(SimpleNamespace(**config))
    model.load_state_dict(state)
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(model(input_ids), parameters, above, materialize_grads=True)
    return {f"gradient of {name}": gradient for name, gradient in zip(names, found, strict=True)}


def right_logits(state, input_ids, config, attention_mask=None):
    logits = oracle.jamba_lm(state, input_ids, config, attention_mask)
    return logits.flatten(0, 1) if attention_mask is None else logits[attention_mask.bool()]


right_logits.dims = ("position", "token")


def check(submission, config, state, input_ids, mask=None, pieces=None):
    got = submission.run(read, config, state, input_ids, mask, pieces)
    factor = float32_inside(state["lm_head.weight"].dtype)
    expect(got).close_to(right_logits, state, input_ids, config, mask, factor=factor)


@pytest.mark.points(2)
@pytest.mark.handout("model")
def test_the_state_dict_is_that_of_transformers(submission):
    """The parameters have the names and shapes of JambaForCausalLM."""
    for name, changes in MODELS.items():
        config = SMALL | changes
        (shapes, numel), expected = submission.run(shapes_and_sharing, config).output, oracle.shapes_of(config)
        wrong = sorted(each for each in {*shapes, *expected} if shapes.get(each) != expected.get(each))
        expect.that(
            not wrong,
            f"{name}: these entries of the state dict differ from transformers': {', '.join(wrong[:6])}",
            expected=", ".join(f"{each} {expected.get(each, 'missing')}" for each in wrong[:6]),
            got=", ".join(f"{each} {shapes.get(each, 'missing')}" for each in wrong[:6]),
        )
        learned = sum(math.prod(shape) for shape in expected.values())
        if config["tie_word_embeddings"]:
            learned -= math.prod(expected["lm_head.weight"])
        expect.that(numel == learned, f"{name}: the model has {numel:,} parameters instead of {learned:,}")


@pytest.mark.points(1)
@EVERY_MODEL
@pytest.mark.handout("model")
def test_logits_are_those_of_transformers(submission, draw, name):
    """With the weights of JambaForCausalLM, one pass returns that model's logits."""
    config = SMALL | MODELS[name]
    check(submission, config, weights(draw, config), draw.integers(0, 31, 2, 9))


@pytest.mark.points(3)
@pytest.mark.handout("model")
def test_gradients_of_every_parameter(submission, draw):
    """A whole pass is differentiable in all parameters."""
    input_ids = draw.integers(1, 31, 2, 7)  # without pad_token_id: its embedding may have no gradient (padding_idx)
    state, above = weights(draw, SMALL), draw.normal(2, 7, 31)
    got = submission.run(gradients, SMALL, above, state, input_ids)
    expect(got).close_to(gradients_of(oracle.jamba_lm), above, state, input_ids, SMALL)


@pytest.mark.points(1)
@pytest.mark.handout("model")
def test_one_token_alone(submission, draw):
    """A text may be one token long, which leaves experts idle."""
    state = weights(draw, SMALL)
    for batch in (1, 3):
        check(submission, SMALL, state, draw.integers(0, 31, batch, 1))


@pytest.mark.points(1)
@pytest.mark.handout("model")
def test_token_ids_need_not_be_contiguous(submission, draw):
    """input_ids may have any memory layout and are not modified."""
    check(submission, SMALL, weights(draw, SMALL), draw.integers(0, 31, 7, 3).T)


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.handout("model")
def test_every_dtype_is_as_accurate_as_it_can_be(submission, draw, dtype):
    """The logits have the parameters' dtype and its rounding error at most (float32's in float64), cache or not."""
    # All experts, so that rounding cannot change the choice; two layers with small weights, so that rounding cannot
    # explain every error.
    config = SMALL | {"num_experts_per_tok": 4, "num_hidden_layers": 2}
    state, input_ids = weights(draw, config, dtype, scale=0.2), draw.integers(0, 31, 3, 6)
    check(submission, config, state, input_ids)
    check(submission, config, state, input_ids, None, [4, 1, 1])


def forgetful(config):
    """A model that writes token 1 into the states of 15 channels, ignores token 0, and at 2 tells what is left."""
    last, one = config["hidden_size"] - 1, torch.eye(config["hidden_size"])
    state = {name: torch.zeros(shape) for name, shape in oracle.shapes_of(config).items()}
    state |= {name: torch.ones_like(each) for name, each in state.items() if "layernorm" in name}
    state["model.embed_tokens.weight"][1, :last], state["model.embed_tokens.weight"][2, last] = 1.0, 1.0
    state["lm_head.weight"][: last + 1] = one
    mamba = {name.split("mamba.")[1]: each for name, each in state.items() if "mamba." in name}
    mamba["in_proj.weight"][: last + 1], mamba["in_proj.weight"][last + 1 :, last] = one, 1.0  # x, and the gate
    mamba["conv1d.weight"][..., -1] = 1.0
    rank, states = config["mamba_dt_rank"], config["mamba_d_state"]
    mamba["x_proj.weight"][rank : rank + states, 0], mamba["x_proj.weight"][rank + states :, last] = 1.0, 1.0  # B, C
    mamba["dt_proj.bias"][:] = 32.0  # Δ
    mamba["A_log"][:] = torch.linspace(-3, -2, last + 1)[:, None]
    mamba["out_proj.weight"][:] = one
    return {name: each.bfloat16() for name, each in state.items()}


def remembered(module, config, state, input_ids, pieces):
    """The logarithms of the last token's first logits, because they are powers of ten apart and each one matters."""
    return read(module, config, state, input_ids, None, pieces)[-1, :15].double().log()


@pytest.mark.points(2)
@pytest.mark.parametrize("pieces", [None, [1] * 16], ids=["at once", "token by token"])
@pytest.mark.handout("model")
def test_decays_are_not_rounded_to_16_bits(submission, pieces):
    """A = -exp(A_log) is float32 in a bfloat16 model: fifteen tokens later, a rounded one has forgotten too much."""
    config = SMALL | MODELS["mamba only"] | {"num_hidden_layers": 1, "num_experts": 1, "mamba_expand": 1}
    config["mamba_conv_bias"] = False
    state, input_ids = forgetful(config), torch.tensor([[1, *[0] * 14, 2]])
    left = submission.run(remembered, config, state, input_ids, pieces).output
    right = right_logits({name: each.double() for name, each in state.items()}, input_ids, config)[-1, :15]
    off = (left - right.log()).expm1().abs().max().item()
    expect.that(
        off < 0.05,
        f"what is left of a token fifteen tokens later is off by up to {off:.1%}, where 16-bit arithmetic explains "
        "less than 2%: compute A = -exp(A_log) in float32, also in a 16-bit model",
    )


def makes(module, config):
    module.JambaLM(SimpleNamespace(**config))


@pytest.mark.points(1)
@pytest.mark.handout("schedule")
def test_a_model_without_a_schedule_is_refused(submission):
    """A configuration with an offset that no layer has raises a ValueError instead of building a different model."""
    ordinary = submission.run(makes, SMALL)
    for kind, words in (("attn", [3, 5]), ("expert", [2, 5])):
        got = submission.run(makes, SMALL | {f"{kind}_layer_offset": 5})
        expect(got).raises(ValueError, mentioning=words, unlike=ordinary)


def read_by_both(module, fields, input_ids):
    import transformers

    config = transformers.JambaConfig(**{name: value for name, value in fields.items() if name != "model_type"})
    theirs = transformers.JambaForCausalLM(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = module.JambaLM(config).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        return ours(input_ids), theirs(input_ids).logits


@pytest.mark.points(2)
@pytest.mark.handout("model")
def test_it_is_made_from_the_configuration_of_transformers(submission, draw):
    """A JambaConfig and its model's state dict are all that it needs."""
    pytest.importorskip("transformers")
    ours, theirs = submission.run(read_by_both, SMALL, draw.integers(0, 31, 2, 9)).output
    apart = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    expect.that(apart < 1e-3, f"the logits differ from those of JambaForCausalLM by {apart:.1%}")


@pytest.mark.points(2)
@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1, 1, 1, 1, 1), (6, 1, 1, 1), (2, 1, 6)], ids=str)
@pytest.mark.handout("cache")
def test_reading_in_pieces_is_reading_at_once(submission, draw, pieces):
    """With the cache, chunks of any length and single tokens yield the logits of one pass."""
    check(submission, SMALL, weights(draw, SMALL), draw.integers(0, 31, 2, 9), None, list(pieces))


@pytest.mark.points(1)
@pytest.mark.parametrize("name", ["biases", "attention only", "mamba only"])
@pytest.mark.handout("cache")
def test_every_kind_of_model_can_go_on(submission, draw, name):
    """The cache works for models with biases and for models with only one kind of layer."""
    config = SMALL | MODELS[name]
    check(submission, config, weights(draw, config), draw.integers(0, 31, 2, 7), None, [3, 1, 3])


@pytest.mark.points(2)
@pytest.mark.parametrize("pieces", [None, [2, 7], [5, 1, 1, 1, 1]], ids=str)
@pytest.mark.handout("padding")
def test_padding_on_the_left_is_not_seen(submission, draw, pieces):
    """Padded rows get the logits of their tokens alone, at once or in pieces, even if a piece is all padding."""
    check(submission, SMALL, weights(draw, SMALL), draw.integers(0, 31, 3, 9), padded_left(9, 6, 1), pieces)


@pytest.mark.points(1)
@pytest.mark.handout("padding")
def test_masks_may_be_boolean(submission, draw):
    """attention_mask may be integer or boolean, and projections with biases also keep padding out."""
    config = SMALL | {"mamba_proj_bias": True}  # the convolution has its bias as well
    check(submission, config, weights(draw, config), draw.integers(0, 31, 2, 8), padded_left(8, 3).bool())


def two_texts(module, config, state, first, second):
    model = module.JambaLM(SimpleNamespace(**config)).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        _, one = model(first[:, :4], use_cache=True)
        _, other = model(second[:, :4], use_cache=True)
        return model(first[:, 4:], cache=one, use_cache=True)[0], model(second[:, 4:], cache=other, use_cache=True)[0]


@pytest.mark.points(1)
@pytest.mark.handout("cache")
def test_two_texts_have_two_caches(submission, draw):
    """One text's cache does not affect another text."""
    state, first, second = weights(draw, SMALL), draw.integers(0, 31, 1, 7), draw.integers(0, 31, 2, 7)
    got = submission.run(two_texts, SMALL, state, first, second)

    def right(state, first, second):
        return tuple(oracle.jamba_lm(state, ids, SMALL)[:, 4:] for ids in (first, second))

    expect(got).close_to(right, state, first, second)


# The cost of one more token. Four query heads share a key/value head: repeating it would cost four times as much.
LONG = SMALL | {"num_key_value_heads": 1, "num_hidden_layers": 2, "intermediate_size": 256}
ONE_KIND = {
    "mamba": LONG | {"attn_layer_period": 8, "attn_layer_offset": 7},
    "attention": LONG | {"attn_layer_period": 1, "attn_layer_offset": 0},
}


def work_of_a_step(module, config, state, texts):
    """The cost of computing one more token after each text: FLOPs plus the numbers created by all operations."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import FlopCounterMode

    class NumbersMade(TorchDispatchMode):  # a scan has no matrix products
        total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            self.total += sum(each.numel() for each in tree_leaves(made) if isinstance(each, torch.Tensor))
            return made

    model = module.JambaLM(SimpleNamespace(**config)).eval()
    model.load_state_dict(state)
    work = []
    with torch.no_grad():
        for text in texts:
            _, cache = model(text, use_cache=True)
            with FlopCounterMode(display=False) as flops, NumbersMade() as numbers:
                model(text[:, :1], cache=cache, use_cache=True)
            work.append(flops.get_total_flops() + numbers.total)
    return work


@pytest.mark.points(2)
@pytest.mark.handout("cost")
def test_a_step_of_mamba_costs_the_same_after_any_text(submission, draw):
    """If all layers are Mamba, one more token is as much work after 96 tokens as after 16."""
    config = ONE_KIND["mamba"]
    texts = [draw.integers(0, 31, 1, length) for length in (16, 96)]
    short, long = submission.run(work_of_a_step, config, weights(draw, config), texts).output
    expect.that(
        long <= 1.1 * short,
        f"a step is {long / short:.1f} times as much work after 96 tokens as after 16: O(n), not O(1)",
    )


@pytest.mark.points(1)
@pytest.mark.handout("cost")
def test_a_step_of_attention_reads_the_cache_and_not_the_text(submission, draw):
    """One more token is compared with all earlier ones, which are not read again."""
    config = ONE_KIND["attention"]
    texts = [draw.integers(0, 31, 1, length) for length in (16, 96)]
    short, long = submission.run(work_of_a_step, config, weights(draw, config), texts).output
    # A step of this model is mostly feed-forward networks. Reading everything again takes 97 / 17 = 5.7 times the work.
    expect.that(
        long <= 3 * short,
        f"a step is {long / short:.1f} times as much work after 96 tokens as after 16: the text is read again",
    )


def bytes_kept(module, config, state, texts):
    """The bytes of all memory allocated while reading each text and still alive while its cache is."""
    import gc

    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Allocated(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.sizes = {}

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            storages = [each.untyped_storage() for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
            self.sizes |= {StorageWeakRef(storage): storage.nbytes() for storage in storages}
            return made

    model = module.JambaLM(SimpleNamespace(**config)).eval()
    model.load_state_dict(state)
    given = {StorageWeakRef(each.untyped_storage()) for each in (*model.parameters(), *texts)}
    kept = []
    for text in texts:
        with torch.no_grad(), Allocated() as allocated:
            cache = model(text, use_cache=True)[1]
        gc.collect()
        alive = [storage for storage in allocated.sizes if storage not in given and not storage.expired()]
        kept.append(sum(allocated.sizes[storage] for storage in alive))
        del cache
    return kept


@pytest.mark.points(2)
@pytest.mark.handout("cost")
def test_what_a_mamba_layer_keeps_does_not_grow(submission, draw):
    """If all layers are Mamba, the cache is as large after 96 tokens as after 16."""
    config = ONE_KIND["mamba"]
    texts = [draw.integers(0, 31, 1, length) for length in (16, 96)]
    short, long = submission.run(bytes_kept, config, weights(draw, config), texts).output
    expect.that(
        long - short <= 80 * 16,  # room for the token ids and a mask, which belong to no layer
        f"the cache holds {short:,} bytes after 16 tokens and {long:,} after 96 (a view keeps its whole tensor alive)",
    )


@pytest.mark.points(1)
@pytest.mark.handout("cost")
def test_attention_keeps_the_heads_that_it_has(submission, draw):
    """For each token an attention layer keeps num_key_value_heads keys and values, not one for each query head."""
    config = ONE_KIND["attention"]
    texts = [draw.integers(0, 31, 1, length) for length in (16, 96)]
    short, long = submission.run(bytes_kept, config, weights(draw, config), texts).output
    token = 2 * 2 * 1 * 4 * 4  # layers, keys and values, heads, numbers in one, bytes of a number
    expect.that(
        long - short <= 2 * 80 * token,  # twice, for caches that grow by doubling
        f"80 more tokens take {long - short:,} bytes, but their keys and values take only {80 * token:,}",
    )


# --- cache_bytes ----------------------------------------------------------------------------------------------------

KIB = 1024


def bytes_of(module, config, lengths, dtype):
    return [module.cache_bytes(SimpleNamespace(**config), length, getattr(torch, dtype)) for length in lengths]


def check_bytes(submission, config, lengths, dtype, expected):
    expect(submission.run(bytes_of, config, lengths, dtype)).equal_to(expected)


@pytest.mark.points(1)
@pytest.mark.parametrize("name", ["llama-3-8b", "mixtral-8x7b", "mamba-2.8b", "rwkv-4-14b", "jamba-v0.1"])
@pytest.mark.handout("bytes")
def test_the_published_models(submission, name):
    """The bytes are right for five published configurations, 4K to 256K tokens, in 16 and 32 bits."""
    config = json.loads((CONFIGS / f"{name}.json").read_text("utf-8"))
    lengths = [4 * KIB * 2**i for i in range(7)]
    for dtype, size in (("bfloat16", 2), ("float32", 4)):
        by_name = {  # per token: layers · heads · width, keys and values; per layer: channels · (inputs + states)
            "llama-3-8b": [32 * 8 * 128 * 2 * size * n for n in lengths],
            "mixtral-8x7b": [32 * 8 * 128 * 2 * size * n for n in lengths],
            "mamba-2.8b": [64 * 5120 * (4 + 16) * size] * 7,
            "rwkv-4-14b": [40 * 5120 * (2 * size + 3 * 4)] * 7,
            "jamba-v0.1": [4 * 8 * 128 * 2 * size * n + 28 * 8192 * (4 + 16) * size for n in lengths],
        }
        check_bytes(submission, config, lengths, dtype, by_name[name])


def check_oracles_bytes(submission, config, lengths, dtype):
    expected = [oracle.cache_bytes(config, length, getattr(torch, dtype)) for length in lengths]
    check_bytes(submission, config, lengths, dtype, expected)


@pytest.mark.points(1)
@pytest.mark.parametrize("model_type", ["mistral", "mixtral", "qwen2"])
@pytest.mark.handout("bytes")
def test_windows_bound_the_cache(submission, model_type):
    """Layers with a sliding window keep only that window."""
    config = {"model_type": model_type, "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2}
    config |= {"num_hidden_layers": 6, "sliding_window": 100}
    if model_type == "qwen2":
        config |= {"max_window_layers": 4, "use_sliding_window": True}
        check_oracles_bytes(submission, config | {"use_sliding_window": False}, [1000], "float16")
    else:
        check_oracles_bytes(submission, config | {"sliding_window": None}, [1000], "float16")
    check_oracles_bytes(submission, config, [1, 50, 100, 101, 1000], "float16")


@pytest.mark.points(1)
@pytest.mark.parametrize("model_type", ["llama", "mamba", "rwkv", "jamba"])
@pytest.mark.handout("bytes")
def test_other_sizes(submission, model_type):
    """Sizes of no published model work: an optional head_dim, other schedules, states and dtypes."""
    heads = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 3}
    configs = {
        "llama": [heads | {"head_dim": 16}, heads | {"head_dim": None}, heads],
        "mamba": [{"intermediate_size": 24, "conv_kernel": 3, "state_size": 5, "num_hidden_layers": 7}],
        "rwkv": [{"hidden_size": 12, "num_hidden_layers": 5}],
        "jamba": [SMALL | {"num_hidden_layers": 5, "mamba_d_conv": 3}, SMALL | MODELS["mamba only"]],
    }
    for config in configs[model_type]:
        for dtype in ("float64", "float16"):
            check_oracles_bytes(
                submission, {"hidden_size": 16} | config | {"model_type": model_type}, [1, 7, 1000], dtype
            )


@pytest.mark.points(1)
@pytest.mark.handout("bytes")
def test_an_unknown_model_is_refused(submission):
    """An unknown model_type raises a ValueError that names it."""
    got, ordinary = (
        submission.run(bytes_of, SMALL | {"model_type": name}, [1], "float32") for name in ("jambalaya", "jamba")
    )
    expect(got).raises(ValueError, mentioning=["jambalaya"], unlike=ordinary)

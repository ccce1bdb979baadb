"""Graded tests of week1/decoder_llm: the parts, the cache, the model with every way of reading, generation."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from grading import expect
from tests.oracles import decoder as oracle
from tests.oracles.precision import float32_inside

# What the exercise asks for: a hand-in that names it is looked at by a person (grading/course/review.py).
READY_MADE = (
    "LlamaForCausalLM",
    "LlamaModel",
    "LlamaDecoderLayer",
    "LlamaAttention",
    "LlamaRotaryEmbedding",
    "Qwen2ForCausalLM",
    "Qwen2Model",
    "Qwen2Attention",
    "AutoModel",
    "AutoModelForCausalLM",
    "apply_rotary_pos_emb",
    "GenerationMixin",
    "DynamicCache",
)

# --- rms_norm and swiglu --------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("rms-norm")
def test_the_worked_example(submission):
    """The handout's worked example of RMSNorm is reproduced."""
    got = submission.call("rms_norm", torch.tensor([[3.0, -4.0]]), torch.tensor([1.0, 2.0]), 0.0)
    expect(got).close_to(oracle.rms_norm)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("rms-norm")
def test_rms_norm_divides_by_the_root_of_the_mean_square(submission, draw, part):
    """x is divided by √(mean(x²) + eps), without subtracting its mean, and multiplied by the weight."""
    for shape in ((2, 5, 16), (16,), (0, 16)):
        x, weight = draw.normal(*shape, mean=0.5), draw.normal(16)
        with part("output"):
            expect(submission.call("rms_norm", x, weight, 1e-6)).close_to(oracle.rms_norm)
        with part("gradients"):
            expect(submission.call("rms_norm", x, weight, 1e-6, grad=True)).close_to(oracle.rms_norm)


@pytest.mark.points(1)
@pytest.mark.handout("rms-norm")
def test_epsilon_is_added_to_the_mean_square(submission, draw):
    """eps is under the root: it dominates for small x, and keeps zeros zero with a finite gradient."""
    x, weight = 1e-2 * draw.normal(2, 5, 16), draw.normal(16)
    x[0, 0] = 0
    got = submission.call("rms_norm", x, weight, 1e-4, grad=True)
    expect(got).close_to(oracle.rms_norm)


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.handout("rms-norm")
def test_rms_norm_keeps_the_dtype_and_overflows_in_none(submission, draw, dtype):
    """The result has x's dtype, and squares too large for float16 do no harm."""
    x, weight = draw.normal(2, 5, 16, dtype=dtype, scale=1000), draw.normal(16, dtype=dtype)
    expect(submission.call("rms_norm", x, weight, 1e-5)).close_to(oracle.rms_norm, factor=float32_inside(dtype))


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("swiglu")
def test_swiglu_gates_the_one_projection_by_the_other(submission, draw, part):
    """SiLU of the gate times the up projection, projected back to the original width."""
    x, w_gate, w_up, w_down = draw.normal(2, 5, 8), draw.normal(12, 8), draw.normal(12, 8), draw.normal(8, 12)
    with part("output"):
        expect(submission.call("swiglu", x, w_gate, w_up, w_down)).close_to(oracle.swiglu)
    with part("gradients"):
        expect(submission.call("swiglu", x, w_gate, w_up, w_down, grad=True)).close_to(oracle.swiglu)


# --- rotary positions -----------------------------------------------------------------------------------------------

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def frequencies(module, settings):
    found = module.rope_frequencies(SimpleNamespace(**settings))
    return {"frequencies": found, "logarithms": found.log()}


def right_frequencies(settings):
    """The frequencies and their logarithms, because they are powers of ten apart and each one matters."""
    right = oracle.rope_frequencies(settings)
    return {"frequencies": right, "logarithms": right.log()}


@pytest.mark.points(1)
@pytest.mark.handout("rope")
def test_plain_frequencies_fall_from_one_to_almost_one_over_theta(submission):
    """θ_i = rope_theta^(-2i / D), where D is head_dim or, if not given, hidden_size / num_attention_heads."""
    sizes = {"hidden_size": 48, "num_attention_heads": 4}
    for rope in (PLAIN, {"rope_theta": 1e6}):
        for more in ({}, {"head_dim": None}, {"head_dim": 16}):
            settings = {**sizes, **more, "rope_parameters": rope}
            got = submission.run(frequencies, settings)
            expect(got).close_to(right_frequencies, settings, dtypes=[torch.float32] * 2)


@pytest.mark.points(2)
@pytest.mark.handout("llama3-rope")
def test_llama_3_stretches_the_slow_frequencies(submission):
    """Fast frequencies are kept, slow ones divided by the factor, and those in between interpolated."""
    for rope in (LLAMA3, {**LLAMA3, "factor": 32.0, "high_freq_factor": 8.0, "original_max_position_embeddings": 512}):
        settings = {"hidden_size": 512, "num_attention_heads": 4, "rope_parameters": rope}
        got = submission.run(frequencies, settings)
        expect(got).close_to(right_frequencies, settings, dtypes=[torch.float32] * 2)


@pytest.mark.points(1)
@pytest.mark.handout("rope")
def test_what_rope_cannot_do_is_refused(submission, draw):
    """An odd head dimension or an unknown rope_type raises a ValueError that names it."""
    odd = {"hidden_size": 45, "num_attention_heads": 3, "rope_parameters": PLAIN}
    even = {**odd, "head_dim": 16}
    unknown = {**even, "rope_parameters": {"rope_type": "spiral", "rope_theta": 10000.0}}
    ordinary = submission.run(frequencies, even)
    for settings, named in ((odd, 15), (unknown, "spiral")):
        expect(submission.run(frequencies, settings)).raises(ValueError, mentioning=[named], unlike=ordinary)
    got, ordinary = (
        submission.call(
            "apply_rotary_pos_emb", *(draw.normal(1, *shape, width) for shape in ((2, 3), (2, 3), (3,), (3,)))
        )
        for width in (5, 6)
    )
    expect(got).raises(ValueError, mentioning=[5], unlike=ordinary)


def tables(draw, *shape, dtype="float32"):
    """Cosine and sine of random angles, the same in both halves."""
    angles = draw.uniform(*shape[:-1], shape[-1] // 2, high=6.3, dtype="float64")
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(getattr(torch, dtype)), angles.sin().to(getattr(torch, dtype))


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("rope")
def test_pairs_of_channels_are_turned(submission, draw, part):
    """Channels i of the two halves are turned as a pair, in queries and in the fewer key heads."""
    q, k, (cos, sin) = draw.normal(2, 4, 5, 8), draw.normal(2, 2, 5, 8), tables(draw, 2, 5, 8)
    with part("output"):
        expect(submission.call("apply_rotary_pos_emb", q, k, cos, sin)).close_to(oracle.apply_rotary_pos_emb)
    with part("gradients"):
        got = submission.call("apply_rotary_pos_emb", q, k, cos, sin, grad=[q, k])
        expect(got).close_to(oracle.apply_rotary_pos_emb)


@pytest.mark.points(1)
@pytest.mark.handout("rope")
def test_heads_may_come_after_the_positions(submission, draw):
    """With unsqueeze_dim=2, queries and keys are (B, L, H, D)."""
    q, k, (cos, sin) = draw.normal(2, 5, 5, 8), draw.normal(2, 5, 1, 8), tables(draw, 2, 5, 8)
    got = submission.call("apply_rotary_pos_emb", q, k, cos, sin, unsqueeze_dim=2)
    expect(got).close_to(oracle.apply_rotary_pos_emb)


@pytest.mark.points(1)
@pytest.mark.handout("rope")
def test_one_table_may_serve_the_whole_batch(submission, draw):
    """cos and sin may be (1, L, D); queries and keys need not be contiguous and keep their dtype."""
    for dtype in ("float32", "float64", "bfloat16"):
        q, k = (draw.normal(3, 5, heads, 16, dtype=dtype)[..., ::2].transpose(1, 2) for heads in (4, 2))
        cos, sin = tables(draw, 1, 5, 8, dtype=dtype)
        expect(submission.call("apply_rotary_pos_emb", q, k, cos, sin)).close_to(oracle.apply_rotary_pos_emb)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("m-rope")
def test_each_section_of_pairs_turns_with_its_own_position(submission, draw, part):
    """The first pairs turn with time, the next with height, the last with width."""
    for section, unsqueeze_dim in (([2, 3, 3], 1), ([4, 1, 3], 2), ([0, 6, 2], 1)):
        q, k, (cos, sin) = draw.normal(2, 5, 5, 16), draw.normal(2, 5, 5, 16), tables(draw, 3, 2, 5, 16)
        with part("output"):
            got = submission.call("multimodal_rope", q, k, cos, sin, section, unsqueeze_dim=unsqueeze_dim)
            expect(got).close_to(oracle.multimodal_rope)
        with part("gradients"):
            got = submission.call("multimodal_rope", q, k, cos, sin, section, unsqueeze_dim, grad=[q, k])
            expect(got).close_to(oracle.multimodal_rope)


@pytest.mark.points(1)
@pytest.mark.handout("m-rope")
def test_sections_that_do_not_fill_the_pairs_are_refused(submission, draw):
    """An mrope_section that does not sum to D / 2 raises a ValueError that names it."""
    q, (cos, sin) = draw.normal(2, 3, 5, 16), tables(draw, 3, 2, 5, 16)
    ordinary = submission.call("multimodal_rope", q, q, cos, sin, [2, 3, 3])
    for section in ([4, 6, 6], [2, 3, 2]):
        got = submission.call("multimodal_rope", q, q, cos, sin, section)
        expect(got).raises(ValueError, mentioning=[section, 16], unlike=ordinary)


# --- the cache ------------------------------------------------------------------------------------------------------


def updates(module, key, value, pieces):
    """Update two layers of one cache and one layer of another, piece by piece; everything visible after each piece."""
    cache, other = module.KVCache(), module.KVCache()
    seen = [(cache.get_seq_length(), cache.get_seq_length(1))]
    start = 0
    for length in pieces:
        k, v = key[:, :, start : start + length], value[:, :, start : start + length]
        start += length
        first = [x.clone() for x in cache.update(k, v, 0)]
        between = (cache.get_seq_length(), cache.get_seq_length(1))
        second = [x.clone() for x in cache.update(-k, -v, 1)]
        lengths = (cache.get_seq_length(layer_idx=0), cache.get_seq_length(layer_idx=1))
        seen.append((first, second, between, lengths, [x.clone() for x in other.update(k + 1, v + 1, 0)]))
    return seen


def right_updates(key, value, pieces):
    seen, end = [(0, 0)], 0
    for length in pieces:
        start, end = end, end + length
        k, v = key[:, :, :end], value[:, :, :end]
        seen.append(([k, v], [-k, -v], (end, start), (end, end), [k + 1, v + 1]))
    return seen


@pytest.mark.points(2)
@pytest.mark.handout("cache")
def test_the_cache_appends_for_each_layer_by_itself(submission, draw):
    """update returns all keys and values of the layer in order; layers and caches are independent."""
    key, value, pieces = draw.normal(2, 2, 7, 4), draw.normal(2, 2, 7, 4), [3, 1, 1, 2]
    expect(submission.run(updates, key, value, pieces)).equal_to(right_updates(key, value, pieces))


# --- the model ------------------------------------------------------------------------------------------------------

SMALL = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
    "tie_word_embeddings": False,
    "rope_parameters": PLAIN,
    "model_type": "llama",
}
STRETCHED = {**LLAMA3, "original_max_position_embeddings": 16}
MODELS = {
    "llama": SMALL,
    "llama 3": {**SMALL, "head_dim": 6, "num_key_value_heads": 1, "rope_parameters": STRETCHED},
    "qwen2": {**SMALL, "model_type": "qwen2", "tie_word_embeddings": True},
}
EVERY_MODEL = pytest.mark.parametrize("name", ["llama", "llama 3", "qwen2"])


def shapes_of(settings):
    """The state dict of `transformers`' model, as shapes by name."""
    hidden, inner = settings["hidden_size"], settings["intermediate_size"]
    head_dim = settings.get("head_dim") or hidden // settings["num_attention_heads"]
    keys = settings["num_key_value_heads"] * head_dim
    widths = {"q": settings["num_attention_heads"] * head_dim, "k": keys, "v": keys}
    shapes = {"model.embed_tokens.weight": (settings["vocab_size"], hidden)}
    for number in range(settings["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        for part, width in widths.items():
            shapes[f"{layer}self_attn.{part}_proj.weight"] = (width, hidden)
            if settings["model_type"] == "qwen2":
                shapes[f"{layer}self_attn.{part}_proj.bias"] = (width,)
        shapes[f"{layer}self_attn.o_proj.weight"] = (hidden, widths["q"])
        shapes |= {f"{layer}mlp.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
        shapes[f"{layer}mlp.down_proj.weight"] = (hidden, inner)
        shapes |= {f"{layer}{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (settings["vocab_size"], hidden)}


def weights(draw, settings, dtype="float32"):
    """A state dict of `transformers`' model, filled with numbers large enough to expose mistakes."""
    state = {
        entry: draw.normal(*shape, dtype=dtype, scale=0.3, mean="norm" in entry)
        for entry, shape in shapes_of(settings).items()
    }
    if settings["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    return state


def shapes_and_sharing(module, settings):
    model = module.DecoderLM(SimpleNamespace(**settings))
    shapes = {entry: tuple(tensor.shape) for entry, tensor in model.state_dict().items()}
    return shapes, sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.points(1)
@EVERY_MODEL
@pytest.mark.handout("model")
def test_the_state_dict_is_that_of_transformers(submission, name):
    """Parameters are named and shaped as in LlamaForCausalLM or Qwen2ForCausalLM; tied ones are one parameter."""
    shapes, count = submission.run(shapes_and_sharing, MODELS[name]).output
    expected = shapes_of(MODELS[name])
    wrong = sorted(entry for entry in {*shapes, *expected} if shapes.get(entry) != expected.get(entry))
    expect.that(
        not wrong,
        f"these entries of the state dict differ from transformers': {', '.join(wrong[:6])}{' …' if wrong[6:] else ''}",
        expected=", ".join(f"{entry} {expected.get(entry, 'missing')}" for entry in wrong[:6]),
        got=", ".join(f"{entry} {shapes.get(entry, 'missing')}" for entry in wrong[:6]),
    )
    numbers = (
        sum(torch.Size(shape).numel() for shape in expected.values()) - 31 * 32 * MODELS[name]["tie_word_embeddings"]
    )
    expect.that(count == numbers, f"the model has {count:,} parameters instead of {numbers:,}")


def read(module, settings, state, input_ids, attention_mask=None, position_ids=None, pieces=None):
    """The logits at all tokens that are not padding, of a prompt read at once or in pieces."""
    model = module.DecoderLM(SimpleNamespace(**settings)).to(state["model.norm.weight"].dtype).eval()
    model.load_state_dict(state)
    real = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()
    if pieces is None:
        return model(input_ids, attention_mask=attention_mask, position_ids=position_ids)[real]
    cache, logits, end = module.KVCache(), [], 0
    for length in pieces:
        start, end = end, end + length
        mask = None if attention_mask is None else attention_mask[:, :end]
        places = None if position_ids is None else position_ids[:, start:end]
        logits.append(model(input_ids[:, start:end], mask, places, cache))
    return torch.cat(logits, 1)[real]


def right_logits(state, input_ids, settings, attention_mask=None, position_ids=None):
    logits = oracle.decoder_lm(state, input_ids, settings, attention_mask, position_ids)
    return logits.flatten(0, 1) if attention_mask is None else logits[attention_mask.bool()]


right_logits.dims = ("token", "vocabulary")


def gradients(module, settings, state, input_ids, above):
    model = module.DecoderLM(SimpleNamespace(**settings))
    model.load_state_dict(state)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(model(input_ids), parameters, above), strict=True))


def right_gradients(state, input_ids, above, settings):
    with torch.enable_grad():
        leaves = {entry: tensor.detach().requires_grad_() for entry, tensor in state.items()}
        logits = oracle.decoder_lm(leaves, input_ids, settings)
        if settings["tie_word_embeddings"]:
            del leaves["lm_head.weight"]
        return dict(zip(leaves, torch.autograd.grad(logits, list(leaves.values()), above), strict=True))


@pytest.mark.points(output=1, gradients=1)
@EVERY_MODEL
@pytest.mark.handout("model")
def test_logits_are_those_of_transformers(submission, draw, part, name):
    """With the weights of LlamaForCausalLM or Qwen2ForCausalLM, it returns that model's logits and gradients."""
    settings, state = MODELS[name], weights(draw, MODELS[name])
    input_ids, above = draw.integers(0, 31, 2, 12), draw.normal(2, 12, 31)
    with part("output"):
        got = submission.run(read, settings, state, input_ids)
        expect(got).close_to(right_logits, state, input_ids, settings)
    with part("gradients"):
        got = submission.run(gradients, settings, state, input_ids, above)
        expect(got).close_to(right_gradients, state, input_ids, above, settings)


def read_by_both(module, kind, kwargs, input_ids):
    """The submission's logits and `transformers`', with the same configuration and weights."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**kwargs)
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = module.DecoderLM(config).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        return ours(input_ids), theirs(input_ids).logits


@pytest.mark.points(2)
@pytest.mark.handout("model")
def test_it_is_made_from_the_configurations_of_transformers(submission, draw):
    """A LlamaConfig or Qwen2Config and its model's state dict are all that it needs."""
    pytest.importorskip("transformers")
    kwargs = {key: value for key, value in SMALL.items() if key != "model_type"}
    for kind, more in (("Llama", {"rope_parameters": STRETCHED}), ("Qwen2", {"tie_word_embeddings": True})):
        got = submission.run(read_by_both, kind, {**kwargs, **more}, draw.integers(0, 31, 2, 12))
        ours, theirs = got.output
        apart = (ours - theirs).abs().max() / theirs.abs().max()
        expect.that(apart < 1e-4, f"the logits differ from those of {kind}ForCausalLM by {apart:.1%}")


def padded_left(*lengths):
    """attention_mask of a batch whose rows have these lengths, left-padded to the longest."""
    return (torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]).long()


@pytest.mark.points(1)
@pytest.mark.parametrize("kind", ["integer", "bool"])
@pytest.mark.handout("masks")
def test_padding_on_the_left_is_not_seen(submission, draw, kind):
    """Padded rows get the logits of their tokens alone; attention_mask may be integer or boolean."""
    state, input_ids, mask = weights(draw, SMALL), draw.integers(0, 31, 3, 12), padded_left(12, 7, 1)
    mask = mask.bool() if kind == "bool" else mask
    got = submission.run(read, SMALL, state, input_ids, mask)
    expect(got).close_to(right_logits, state, input_ids, SMALL, mask)


@pytest.mark.points(1)
@pytest.mark.handout("rope")
def test_positions_may_be_given(submission, draw):
    """position_ids give the positions of the tokens, for each row or for all."""
    state, input_ids, mask = weights(draw, SMALL), draw.integers(0, 31, 2, 9), padded_left(9, 9)
    for rows in (1, 2):
        places = draw.integers(1, 6, rows, 9).cumsum(1)
        got = submission.run(read, SMALL, state, input_ids, mask, places)
        expect(got).close_to(right_logits, state, input_ids, SMALL, mask, places)


@pytest.mark.points(1)
@pytest.mark.handout("rope")
def test_angles_are_computed_in_float32(submission, draw):
    """In bfloat16, neighbouring positions around 1000 differ, and frequencies are exact over 100,000 positions."""
    state, input_ids = weights(draw, SMALL, dtype="bfloat16"), draw.integers(0, 31, 2, 9)
    for places in (1000 + torch.arange(9)[None], 20_000 * torch.arange(9)[None]):
        got = submission.run(read, SMALL, state, input_ids, None, places)
        expect(got).close_to(right_logits, state, input_ids, SMALL, None, places)


# --- reading with the cache -----------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.parametrize("pieces", [[1] * 9, [8, 1], [4, 4, 1], [3, 1, 5]], ids=["tokens", "prompt", "chunks", "mixed"])
@pytest.mark.handout("cache")
def test_a_prompt_in_pieces_gives_the_same_logits(submission, draw, pieces):
    """Read token by token, in chunks, or as a prompt and then tokens, the text gets the same logits as at once."""
    for settings in MODELS.values():
        state, input_ids = weights(draw, settings), draw.integers(0, 31, 2, 9)
        got = submission.run(read, settings, state, input_ids, None, None, pieces)
        expect(got).close_to(right_logits, state, input_ids, settings)


@pytest.mark.points(1)
@pytest.mark.parametrize("pieces", [[1] * 9, [4, 4, 1]], ids=["tokens", "chunks"])
@pytest.mark.handout("cache")
def test_a_padded_batch_may_be_read_in_pieces(submission, draw, pieces):
    """The rows of a padded batch do too, even if a whole piece of a row is padding."""
    state, input_ids, mask = weights(draw, SMALL), draw.integers(0, 31, 3, 9), padded_left(9, 6, 2)
    got = submission.run(read, SMALL, state, input_ids, mask, None, pieces)
    expect(got).close_to(right_logits, state, input_ids, SMALL, mask)


@pytest.mark.points(1)
@pytest.mark.handout("cache")
def test_given_positions_hold_in_pieces_too(submission, draw):
    """position_ids are those of the piece being read."""
    state, input_ids, places = weights(draw, SMALL), draw.integers(0, 31, 2, 9), draw.integers(1, 6, 2, 9).cumsum(1)
    got = submission.run(read, SMALL, state, input_ids, None, places, [4, 1, 4])
    expect(got).close_to(right_logits, state, input_ids, SMALL, None, places)


def what_is_cached(module, settings, input_ids):
    shapes = []

    class Watched(module.KVCache):
        def update(self, key, value, layer_idx):
            shapes.append((layer_idx, tuple(key.shape), tuple(value.shape)))
            return super().update(key, value, layer_idx)

    model, cache = module.DecoderLM(SimpleNamespace(**settings)).eval(), Watched()
    with torch.no_grad():
        model(input_ids[:, :4], past_key_values=cache)
        model(input_ids[:, 4:], past_key_values=cache)
    return sorted(shapes), cache.get_seq_length()


@pytest.mark.points(1)
@pytest.mark.handout("grouped-heads")
def test_the_cache_holds_each_key_and_value_head_once(submission, draw):
    """Each layer adds its new tokens to the cache once, with num_key_value_heads heads, not repeated ones."""
    shapes, length = submission.run(what_is_cached, SMALL, draw.integers(0, 31, 2, 5)).output
    wanted = [(layer, (2, 2, tokens, 8), (2, 2, tokens, 8)) for layer in (0, 1) for tokens in (1, 4)]
    expect.that(
        [list(each) for each in shapes] == [list(each) for each in wanted] and length == 5,
        "the cache should get only the new tokens' keys and values, (B, H_kv, L, D), once for each layer",
        expected=f"(layer, key, value): {wanted}",
        got=f"{shapes}, and a length of {length}",
    )


# --- generate -------------------------------------------------------------------------------------------------------


def generated(module, settings, state, input_ids, new_tokens, options):
    """The ids, the number of tokens in each call of the model, and whether any of its logits required a gradient."""
    model = module.DecoderLM(SimpleNamespace(**settings)).eval()
    model.load_state_dict(state)
    forward, lengths, graphs = model.forward, [], []

    def watched(input_ids, *args, **kwargs):
        lengths.append(input_ids.size(1))
        output = forward(input_ids, *args, **kwargs)
        graphs.append(getattr(output, "requires_grad", False))
        return output

    model.forward = watched
    ids = module.generate(model, input_ids, new_tokens, **options)
    return {"ids": ids, "lengths": lengths, "graph": any(graphs)}


def check_ids(ids, state, input_ids, settings, new_tokens, attention_mask=None):
    """The prompt comes first, and each new id is, up to rounding, the reference's most likely next token."""
    length = input_ids.size(1)
    expect.that(
        isinstance(ids, torch.Tensor)
        and ids.dtype == torch.int64
        and ids.shape == (len(input_ids), length + new_tokens),
        "the ids should be those of the prompt and the new tokens",
        expected=f"an int64 tensor {(len(input_ids), length + new_tokens)}",
        got=f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, torch.Tensor) else str(ids),
    )
    expect.that(torch.equal(ids[:, :length], input_ids), "the ids do not start with the prompt")
    expect.that(((ids >= 0) & (ids < settings["vocab_size"])).all(), "some ids are outside the vocabulary")
    if attention_mask is not None:
        attention_mask = torch.nn.functional.pad(attention_mask.long(), (0, new_tokens), value=1)
    exact = {entry: tensor.double() for entry, tensor in state.items()}
    with torch.no_grad():
        logits = oracle.decoder_lm(exact, ids, settings, attention_mask)[:, length - 1 : -1]
    taken = logits.gather(-1, ids[:, length:, None])[..., 0]
    wrong = [tuple(place) for place in (taken < logits.amax(-1) - 1e-4).nonzero().tolist()]
    expect.that(
        not wrong,
        f"{len(wrong)} of {taken.numel()} new tokens are not the most likely; first (row, new token): {wrong[0:1]}",
    )


@pytest.mark.points(1)
@EVERY_MODEL
@pytest.mark.handout("generation")
def test_a_prompt_goes_on_with_the_most_likely_tokens(submission, draw, name):
    """The result is the prompt, then one by one the tokens that the model finds most likely."""
    settings, state = MODELS[name], weights(draw, MODELS[name])
    input_ids = draw.integers(0, 31, 2, 5)
    ids = submission.run(generated, settings, state, input_ids, 12, {}).output["ids"]
    check_ids(ids, state, input_ids, settings, 12)


@pytest.mark.points(without=1, tokens=1)
@pytest.mark.handout("generation")
def test_the_cache_changes_the_work_and_not_the_tokens(submission, draw, part):
    """Without the cache the tokens are the same; with it no token is read twice."""
    state, input_ids = weights(draw, SMALL), draw.integers(0, 31, 2, 5)
    with part("without"):
        ids = submission.run(generated, SMALL, state, input_ids, 12, {"use_cache": False}).output["ids"]
        check_ids(ids, state, input_ids, SMALL, 12)
    with part("tokens"):
        lengths = submission.run(generated, SMALL, state, input_ids, 12, {}).output["lengths"]
        expect.that(
            16 <= sum(lengths) <= 17,
            f"to add 12 tokens to 5, the model read {sum(lengths)} tokens; it should read each of 16 once",
            expected="calls with 5, 1, 1, … tokens",
            got=f"calls with {', '.join(map(str, lengths))} tokens",
        )


@pytest.mark.points(1)
@pytest.mark.parametrize("chunk_size", [1, 3, 5, 100])
@pytest.mark.handout("generation")
def test_a_long_prompt_may_be_read_in_chunks(submission, draw, chunk_size):
    """At most chunk_size tokens of the prompt are read at a time, and the new tokens are the same."""
    state, input_ids = weights(draw, SMALL), draw.integers(0, 31, 2, 10)
    got = submission.run(generated, SMALL, state, input_ids, 6, {"chunk_size": chunk_size}).output
    check_ids(got["ids"], state, input_ids, SMALL, 6)
    expect.that(
        max(got["lengths"], default=0) <= chunk_size and 15 <= sum(got["lengths"]) <= 16,
        f"with chunk_size={chunk_size} a prompt of 10 tokens should be read in chunks, each token once",
        got=f"calls with {', '.join(map(str, got['lengths']))} tokens",
    )


@pytest.mark.points(1)
@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"chunk_size": 4}], ids=["cache", "no cache", "chunks"])
@pytest.mark.handout("generation")
def test_padded_rows_go_on_as_they_would_alone(submission, draw, options):
    """Rows of a left-padded batch get the same tokens as each row alone."""
    state, input_ids, mask = weights(draw, SMALL), draw.integers(0, 31, 3, 9), padded_left(9, 6, 2)
    options = {"attention_mask": mask, **options}
    ids = submission.run(generated, SMALL, state, input_ids, 8, options).output["ids"]
    check_ids(ids, state, input_ids, SMALL, 8, mask)


@pytest.mark.points(1)
@pytest.mark.handout("generation")
def test_one_token_or_none_may_be_added(submission, draw):
    """max_new_tokens may be 1; with 0 the prompt is returned."""
    state, input_ids = weights(draw, SMALL), draw.integers(0, 31, 2, 5)
    for new_tokens in (1, 0):
        ids = submission.run(generated, SMALL, state, input_ids, new_tokens, {}).output["ids"]
        check_ids(ids, state, input_ids, SMALL, new_tokens)


@pytest.mark.points(1)
@pytest.mark.handout("generation")
def test_no_token_ends_a_text(submission, draw):
    """max_new_tokens are always added: a model that counts goes through its vocabulary and starts again."""
    state = {entry: torch.zeros(shape) for entry, shape in shapes_of(SMALL).items()}
    state["model.embed_tokens.weight"], state["model.norm.weight"] = torch.eye(31, 32), torch.ones(32)
    state["lm_head.weight"] = torch.eye(31, 32).roll(1, 0)  # after token t comes t + 1
    start = draw.integers(0, 31, 1, 1)
    ids = submission.run(generated, SMALL, state, start, 40, {}).output["ids"]
    check_ids(ids, state, start, SMALL, 40)


@pytest.mark.points(1)
@pytest.mark.handout("generation")
def test_generation_keeps_no_graph(submission, draw):
    """No graph is kept for backward."""
    state, input_ids = weights(draw, SMALL), draw.integers(0, 31, 2, 5)
    graph = submission.run(generated, SMALL, state, input_ids, 3, {}).output["graph"]
    expect.that(not graph, "the logits require a gradient during generation: a graph is kept")


@pytest.mark.points(1)
@pytest.mark.handout("generation")
def test_chunks_of_no_tokens_are_refused(submission, draw):
    """A chunk_size below 1 raises a ValueError that names it."""
    state, input_ids = weights(draw, SMALL), draw.integers(0, 31, 2, 5)
    ordinary = submission.run(generated, SMALL, state, input_ids, 3, {"chunk_size": 1})
    for chunk_size in (0, -3):
        got = submission.run(generated, SMALL, state, input_ids, 3, {"chunk_size": chunk_size})
        expect(got).raises(ValueError, mentioning=[chunk_size], unlike=ordinary)

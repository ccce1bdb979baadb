"""Graded tests of week1/transformer: positions, the encoder's layer, the decoder's, the whole model, decoding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from grading import expect
from tests.oracles import transformer as oracle

# --- sinusoidal_positions -------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("positions")
def test_the_worked_example(submission):
    """The handout's table of positions comes out."""
    expect(submission.call("sinusoidal_positions", 3, 4)).close_to(oracle.sinusoidal_positions)


@pytest.mark.points(1)
@pytest.mark.parametrize(("length", "d_model"), [(50, 16), (400, 6)])
@pytest.mark.handout("positions")
def test_sines_and_cosines_alternate(submission, length, d_model):
    """Column 2i is a sine, column 2i + 1 the cosine of the same angle, for any number of positions."""
    got = submission.call("sinusoidal_positions", length, d_model)
    expect(got).close_to(oracle.sinusoidal_positions, dtypes=[torch.float32])


@pytest.mark.points(1)
@pytest.mark.parametrize("d_model", [7, 1])
@pytest.mark.handout("positions")
def test_an_odd_width_ends_with_a_sine(submission, d_model):
    """With odd d_model the last column is a sine, and the wavelengths follow from d_model itself."""
    got = submission.call("sinusoidal_positions", 9, d_model)
    expect(got).close_to(oracle.sinusoidal_positions, dtypes=[torch.float32])


@pytest.mark.points(1)
@pytest.mark.handout("positions")
def test_there_may_be_one_position_or_none(submission):
    """Lengths 1 and 0 are lengths like any other."""
    for length in (1, 0):
        got = submission.call("sinusoidal_positions", length, 6)
        expect(got).close_to(oracle.sinusoidal_positions, dtypes=[torch.float32])


# --- the layers -----------------------------------------------------------------------------------------------------

SIZES = (24, 4, 40)  # d_model, nhead, dim_feedforward


def weights(draw, name, d_model=24, nhead=4, dim_feedforward=40, bias=True, dtype="float32"):
    """A state dict of PyTorch's layer, filled with numbers large enough to show what goes wrong."""
    layer = getattr(nn, f"Transformer{name}")(d_model, nhead, dim_feedforward, bias=bias, device="meta")
    return {
        entry: draw.normal(*tensor.shape, dtype=dtype, scale=0.3, mean=float(entry[:4] == "norm" and "weight" in entry))
        for entry, tensor in layer.state_dict().items()
    }


def sequences(draw, name, batch=2, d_model=24, dtype="float32"):
    """What goes into a layer: src, or tgt and a memory that is longer."""
    lengths = (6,) if name == "EncoderLayer" else (5, 7)
    return [draw.normal(batch, length, d_model, dtype=dtype) for length in lengths]


ORACLES = {"EncoderLayer": oracle.encoder_layer, "DecoderLayer": oracle.decoder_layer}
BOTH = pytest.mark.parametrize("name", ["EncoderLayer", "DecoderLayer"])


@pytest.mark.points(1)
@BOTH
@pytest.mark.handout("layers")
def test_the_state_dict_is_pytorch_s(submission, name):
    """The parameters have the names and shapes of PyTorch's layer, with biases and without."""
    for bias in (True, False):
        state = submission.make(name, *SIZES, bias=bias).state_dict().output
        theirs = getattr(nn, f"Transformer{name}")(*SIZES, bias=bias).state_dict()
        shapes = {entry: tuple(tensor.shape) for entry, tensor in state.items()}
        expected = {entry: tuple(tensor.shape) for entry, tensor in theirs.items()}
        wrong = sorted(entry for entry in {*shapes, *expected} if shapes.get(entry) != expected.get(entry))
        expect.that(
            not wrong,
            f"with bias={bias} the state dict has other entries than torch.nn.Transformer{name}'s: {', '.join(wrong)}",
            expected=", ".join(f"{entry} {expected.get(entry, 'not there')}" for entry in wrong),
            came=", ".join(f"{entry} {shapes.get(entry, 'not there')}" for entry in wrong),
        )


@pytest.mark.points(output=1, gradients=1)
@BOTH
@pytest.mark.handout("layers")
def test_it_computes_what_pytorch_s_layer_computes(submission, draw, part, name):
    """With the weights of PyTorch's layer it gives that layer's output, and the gradients of its inputs and weights."""
    state, inputs = weights(draw, name), sequences(draw, name)
    made = submission.make(name, *SIZES).load(state).eval()
    with part("output"):
        expect(made.call(*inputs)).close_to(ORACLES[name], state, *inputs, nhead=4)
    with part("gradients"):
        expect(made.call(*inputs, grad=True)).close_to(ORACLES[name], state, *inputs, nhead=4)


@pytest.mark.points(1)
@BOTH
@pytest.mark.handout("norms")
def test_the_norm_may_come_first(submission, draw, name):
    """With norm_first each sublayer gets the normalised input, and the residual goes round the norm."""
    state, inputs = weights(draw, name), sequences(draw, name)
    got = submission.make(name, *SIZES, norm_first=True).load(state).eval().call(*inputs, grad=True)
    expect(got).close_to(ORACLES[name], state, *inputs, nhead=4, norm_first=True)


@pytest.mark.points(1)
@BOTH
@pytest.mark.handout("feed-forward")
def test_gelu_is_the_exact_one(submission, draw, name):
    """activation="gelu" is x times the normal distribution's Φ(x), by the error function."""
    state, inputs = weights(draw, name), sequences(draw, name)
    state["linear1.weight"] *= 3
    got = submission.make(name, *SIZES, activation="gelu").load(state).eval().call(*inputs, grad=True)
    expect(got).close_to(ORACLES[name], state, *inputs, nhead=4, activation="gelu")


def output_with_silu(module, name, sizes, state, inputs):
    layer = getattr(module, name)(*sizes, activation=F.silu).eval()
    layer.load_state_dict(state)
    return layer(*inputs)


@pytest.mark.points(1)
@pytest.mark.handout("feed-forward")
def test_the_activation_may_be_a_function(submission, draw):
    """activation may be any function of a tensor, silu say."""
    for name in ORACLES:
        state, inputs = weights(draw, name), sequences(draw, name)
        got = submission.run(output_with_silu, name, SIZES, state, inputs)
        expect(got).close_to(ORACLES[name], state, *inputs, nhead=4, activation=F.silu)


@pytest.mark.points(1)
@pytest.mark.handout("feed-forward")
def test_an_unknown_activation_is_refused(submission, draw):
    """Another string than "relu" and "gelu" is a ValueError that names it."""
    for name in ORACLES:
        got = submission.make(name, *SIZES, activation="swoosh").call(*sequences(draw, name))
        expect(got).raises(ValueError, mentioning=["swoosh"])


@pytest.mark.points(1)
@BOTH
@pytest.mark.handout("norms")
def test_the_epsilon_of_the_norms_can_be_set(submission, draw, name):
    """layer_norm_eps goes into every norm of the layer."""
    state, inputs = weights(draw, name), sequences(draw, name)
    got = submission.make(name, *SIZES, layer_norm_eps=0.5).load(state).eval().call(*inputs)
    expect(got).close_to(ORACLES[name], state, *inputs, nhead=4, layer_norm_eps=0.5)


@pytest.mark.points(1)
@BOTH
@pytest.mark.handout("layers")
def test_the_sequence_may_come_first(submission, draw, name):
    """With batch_first=False sequences are (S, B, E)."""
    state, inputs = weights(draw, name), [x.transpose(0, 1).contiguous() for x in sequences(draw, name)]
    got = submission.make(name, *SIZES, batch_first=False).load(state).eval().call(*inputs)
    expect(got).close_to(ORACLES[name], state, *inputs, nhead=4, batch_first=False)


@pytest.mark.points(1)
@BOTH
@pytest.mark.handout("layers")
def test_it_computes_in_the_dtype_of_its_weights(submission, draw, name):
    """In float64 and bfloat16 it is as accurate as they allow."""
    for dtype in ("float64", "bfloat16"):
        state, inputs = weights(draw, name, dtype=dtype), sequences(draw, name, dtype=dtype)
        got = submission.make(name, *SIZES).to(inputs[0].dtype).load(state).eval().call(*inputs, grad=True)
        expect(got).close_to(ORACLES[name], state, *inputs, nhead=4)


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.parametrize("shape", [(6, 6), (8, 6, 6)])
@pytest.mark.handout("masks")
def test_src_mask_hides_keys_from_queries(submission, draw, shape):
    """src_mask is one for all, (S, S), or one for each head of each sequence; True = hidden, numbers are added."""
    state, (src,) = weights(draw, "EncoderLayer"), sequences(draw, "EncoderLayer")
    made = submission.make("EncoderLayer", *SIZES).load(state).eval()
    for mask in (~draw.mask(*shape), draw.normal(*shape).masked_fill(~draw.mask(*shape), -math.inf)):
        got = made.call(src, src_mask=mask, grad=[src])
        expect(got).close_to(oracle.encoder_layer, state, src, mask, nhead=4)


@pytest.mark.points(1)
@pytest.mark.parametrize("which", ["tgt_mask", "memory_mask"])
@pytest.mark.handout("masks")
def test_each_attention_of_the_decoder_has_its_own_mask(submission, draw, which):
    """tgt_mask belongs to the self-attention, memory_mask to the attention to memory."""
    state, (tgt, memory) = weights(draw, "DecoderLayer"), sequences(draw, "DecoderLayer")
    made = submission.make("DecoderLayer", *SIZES).load(state).eval()
    keys = 5 if which == "tgt_mask" else 7
    for mask in (torch.ones(5, keys, dtype=torch.bool).triu(1), draw.normal(5, keys), ~draw.mask(8, 5, keys)):
        got = made.call(tgt, memory, **{which: mask}, grad=[tgt, memory])
        expect(got).close_to(oracle.decoder_layer, state, tgt, memory, nhead=4, **{which: mask})


def outputs_at(module, name, sizes, state, inputs, masks, real):
    layer = getattr(module, name)(*sizes).eval()
    layer.load_state_dict(state)
    return layer(*inputs, **masks)[real]


def at(real, layer):
    """The oracle of `outputs_at`: what stands at padded positions is left open."""

    def selected(*args, **kwargs):
        return layer(*args, **kwargs)[real]

    selected.dims = ("position", "channel")
    return selected


def paddings(draw, *lengths, keys):
    """The same padding twice: True = padding, and -inf there among numbers that are added."""
    padding = torch.arange(keys) >= torch.tensor(lengths)[:, None]
    return padding, draw.normal(len(lengths), keys).masked_fill(padding, -math.inf)


@pytest.mark.points(1)
@pytest.mark.handout("masks")
def test_padding_of_the_source_is_ignored(submission, draw):
    """src_key_padding_mask hides positions of each sequence from all others."""
    state, (src,) = weights(draw, "EncoderLayer"), sequences(draw, "EncoderLayer", batch=3)
    real = torch.arange(6) < torch.tensor([[6], [4], [1]])
    for padding in paddings(draw, 6, 4, 1, keys=6):
        masks = {"src_key_padding_mask": padding}
        got = submission.run(outputs_at, "EncoderLayer", SIZES, state, [src], masks, real)
        expect(got).close_to(at(real, oracle.encoder_layer), state, src, nhead=4, **masks)


@pytest.mark.points(1)
@pytest.mark.parametrize("which", ["tgt_key_padding_mask", "memory_key_padding_mask"])
@pytest.mark.handout("masks")
def test_padding_of_target_and_memory_is_ignored(submission, draw, which):
    """tgt_key_padding_mask belongs to the self-attention, memory_key_padding_mask to the attention to memory."""
    state, (tgt, memory) = weights(draw, "DecoderLayer"), sequences(draw, "DecoderLayer", batch=3)
    target = which == "tgt_key_padding_mask"
    lengths, keys = ((5, 3, 1), 5) if target else ((7, 4, 1), 7)
    real = torch.arange(5) < torch.tensor(lengths if target else (5, 5, 5))[:, None]
    for padding in paddings(draw, *lengths, keys=keys):
        got = submission.run(outputs_at, "DecoderLayer", SIZES, state, [tgt, memory], {which: padding}, real)
        expect(got).close_to(at(real, oracle.decoder_layer), state, tgt, memory, nhead=4, **{which: padding})


@pytest.mark.points(1)
@pytest.mark.handout("masks")
def test_an_order_and_padding_hide_together(submission, draw):
    """A causal mask and padding, in self-attention and in the attention to memory, all at once."""
    state, (tgt, memory) = weights(draw, "DecoderLayer"), sequences(draw, "DecoderLayer", batch=3)
    real = torch.arange(5) < torch.tensor([[5], [3], [2]])
    causal, some = torch.ones(5, 5, dtype=torch.bool).triu(1), ~draw.mask(5, 7)
    some[:, 0] = False
    masks = {"tgt_mask": causal, "tgt_key_padding_mask": ~real, "memory_mask": some}
    masks["memory_key_padding_mask"] = torch.arange(7) >= torch.tensor([[4], [7], [1]])
    got = submission.run(outputs_at, "DecoderLayer", SIZES, state, [tgt, memory], masks, real)
    expect(got).close_to(at(real, oracle.decoder_layer), state, tgt, memory, nhead=4, **masks)


# --- dropout --------------------------------------------------------------------------------------------------------

# The parts of each layer: the last linear map, the bias that feeds it, and what to call it.
SELF_ATTENTION = ("self_attn.out_proj", "self_attn.in_proj_bias", "self-attention")
TO_MEMORY = ("multihead_attn.out_proj", "multihead_attn.in_proj_bias", "the attention to memory")
FEED_FORWARD = ("linear2", "linear1.bias", "the feed-forward network")
SUBLAYERS = {
    "EncoderLayer": [SELF_ATTENTION, FEED_FORWARD],
    "DecoderLayer": [SELF_ATTENTION, TO_MEMORY, FEED_FORWARD],
}


def only(name, last, first, inside):
    """Weights with which one sublayer adds 1 to every channel but the first, and the others add nothing.

    `inside`: the 1 comes by way of an attention weight or an activation, each dropped by itself; else it is a bias.
    """
    state = getattr(nn, f"Transformer{name}")(8, 8, 8).state_dict()
    state = {entry: torch.full_like(tensor, entry[:4] == "norm" and "weight" in entry) for entry, tensor in state.items()}
    ones = torch.ones(8).index_fill(0, torch.tensor(0), 0)
    if inside:
        state[first].fill_(1)
        state[f"{last}.weight"] = torch.diag(ones)
    else:
        state[f"{last}.bias"] = ones
    return state


@pytest.mark.points(outputs=1, inside=1)
@BOTH
@pytest.mark.handout("dropout")
def test_dropout_hits_every_sublayer_in_training(submission, name, part):
    """In training mode the output of each sublayer is dropped from, and so are attention weights and activations."""
    inputs = [torch.zeros(256, 1, 8) for _ in SUBLAYERS[name][1:]]
    for where, keep in (("outputs", 0.75), ("inside", 0.75**2)):  # what is dropped from inside is so again on the way out
        with part(where):
            for last, first, words in SUBLAYERS[name]:
                state = only(name, last, first, inside=where == "inside")
                for norm_first in (False, True):
                    made = submission.make(name, 8, 8, 8, dropout=0.25, norm_first=norm_first)
                    output = made.load(state).train().call(*inputs).output
                    kept = output[..., 1:] > output[..., :1] + 1e-3  # the first channel is what a dropped one becomes
                    share, noise = kept.double().mean().item(), 5 * math.sqrt(keep * (1 - keep) / kept.numel())
                    with_what = f"with dropout=0.25 and norm_first={norm_first} {words}"
                    if where == "inside":
                        with_what += ", whose attention weights or activations are dropped from as well,"
                    expect.that(
                        abs(share - keep) < noise,
                        f"{with_what} keeps {share:.1%} of its numbers, where {keep:.1%} are to be kept",
                    )
                    expect.that(
                        len(kept.flatten(0, 1).unique(dim=0)) > 60,
                        f"{with_what} drops the same channels in all sequences: each number is dropped on its own",
                    )
                    if norm_first:  # the output is the residual sum itself
                        scaled = output[..., 1:][kept]
                        expect.that(
                            (scaled * keep - 1).abs().max() < 1e-4,
                            f"{with_what} makes {scaled.mean():.4g} of a kept 1, where {1 / keep:.4g} belongs",
                        )


# --- everything at once ---------------------------------------------------------------------------------------------


@st.composite
def layers(draw):
    """Any legal layer and call: sizes, options, masks."""
    name, heads = draw(st.sampled_from(["EncoderLayer", "DecoderLayer"])), draw(st.integers(1, 3))
    sizes = (heads * draw(st.integers(1, 4)), heads, draw(st.integers(1, 9)))
    options = {
        "activation": draw(st.sampled_from(["relu", "gelu"])),
        "norm_first": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "layer_norm_eps": draw(st.sampled_from([1e-5, 0.1])),
    }
    lengths = {"src" if name == "EncoderLayer" else "tgt": draw(st.integers(1, 5))}
    if name == "DecoderLayer":
        lengths["memory"] = draw(st.integers(1, 5))
    kinds = {which: draw(st.sampled_from(["none", "boolean", "floating-point"])) for which in lengths}
    return name, sizes, options, draw(st.booleans()), draw(st.integers(1, 3)), lengths, kinds, draw(st.integers(0, 99))


@pytest.mark.points(2)
@pytest.mark.handout("layers")
@settings(max_examples=20)
@given(layer=layers())
def test_any_legal_layer_is_right(submission, draw, layer):
    """Sizes, options and masks in any combination, in float64."""
    name, sizes, options, bias, batch, lengths, kinds, seed = layer
    draw.generator.manual_seed(draw.seed + seed)  # so that an example is the same when it is tried again
    state = weights(draw, name, *sizes, bias=bias, dtype="float64")
    inputs = [draw.normal(batch, length, sizes[0], dtype="float64") for length in lengths.values()]
    if not options["batch_first"]:
        inputs = [x.transpose(0, 1) for x in inputs]
    masks, queries = {}, next(iter(lengths.values()))
    for which, kind in kinds.items():
        shape = draw.choice([(), (batch * sizes[1],)])
        hidden = ~draw.mask(*shape, queries, lengths[which])
        if kind == "boolean":
            masks[f"{which}_mask"] = hidden
        elif kind == "floating-point":
            masks[f"{which}_mask"] = draw.normal(*hidden.shape, dtype="float64").masked_fill(hidden, -math.inf)
    got = submission.make(name, *sizes, bias=bias, **options).to(torch.float64).load(state).eval().call(*inputs, **masks)
    expect(got).close_to(ORACLES[name], state, *inputs, nhead=sizes[1], **options, **masks)


# --- Seq2Seq --------------------------------------------------------------------------------------------------------
# Its inside is the submission's own. So the scenarios look at what the logits depend on. Logits that must be the same
# may differ by the rounding of another order of computation, about 1e-7 of their size; what a mistake lets through
# changes them by 1e-2 or so. The line is drawn at 1e-5.


def logits_of_a_new_model(module, src, tgt):
    return module.Seq2Seq(11, 13, 32, 4, 2).eval()(src, tgt)


@pytest.mark.points(1)
@pytest.mark.handout("seq2seq")
def test_every_target_position_gets_logits(submission, draw):
    """The logits are (B, T, tgt_vocab), finite and in the dtype of the parameters, for any lengths."""
    for batch, source, target in ((3, 7, 5), (1, 1, 1), (2, 3, 40)):
        src, tgt = draw.integers(0, 11, batch, source), draw.integers(0, 13, batch, target)
        got = submission.run(logits_of_a_new_model, src, tgt)
        expect(got).shaped(batch, target, 13, dtype=torch.float32)
        expect.that(got.output.isfinite().all(), "the logits of a new model are not all finite")


def positions_that_change(module, src, tgt, src_mask):
    """For each source and target token: at which target positions of which sequences the logits change with it."""
    model = module.Seq2Seq(11, 13, 32, 4, 2).eval()

    def changed(src_token=None, tgt_token=None):
        other_src, other_tgt = src.clone(), tgt.clone()
        if src_token is not None:
            other_src[0, src_token] = (other_src[0, src_token] + 1) % 11
        if tgt_token is not None:
            other_tgt[0, tgt_token] = (other_tgt[0, tgt_token] + 1) % 13
        logits = model(other_src, other_tgt)
        return ((logits - before).abs().amax(-1) > 1e-5 * before.abs().max()).tolist()

    with torch.no_grad():
        before = model(src, tgt)
        of_source = [changed(src_token=token) for token in range(src.size(1))]
        of_target = [changed(tgt_token=token) for token in range(tgt.size(1))]
    return {"source": of_source, "target": of_target}


@pytest.mark.points(past=1, future=1)
@pytest.mark.handout("seq2seq")
def test_logits_depend_on_earlier_target_tokens_only(submission, draw, part):
    """The logits at t depend on the target tokens up to t, all of them, and on none that comes later."""
    src, tgt = draw.integers(0, 11, 2, 4), draw.integers(0, 13, 2, 5)
    changes = submission.run(positions_that_change, src, tgt, None).output["target"]
    for token, (row, _) in enumerate(changes):
        early = [position for position in range(token) if row[position]]
        deaf = [position for position in range(token, 5) if not row[position]]
        with part("future"):
            expect.that(not early, f"the logits at {early} change when a later target token does, the one at {token}")
        with part("past"):
            expect.that(not deaf, f"the logits at {deaf} don't change when the target token at {token} does")

"""Graded tests of week1/transformer: positions, encoder layer, decoder layer, the whole model, decoding."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from grading import expect
from tests.oracles import transformer as oracle

# What the exercise asks for: a hand-in that names it is looked at by a person (grading/course/review.py).
READY_MADE = (
    "Transformer",
    "TransformerEncoderLayer",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerDecoder",
)

# --- sinusoidal_positions -------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("positions")
def test_the_worked_example(submission):
    """The handout's table of positions is reproduced."""
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
    """With an odd d_model, the last column is a sine, and the wavelengths follow from d_model itself."""
    got = submission.call("sinusoidal_positions", 9, d_model)
    expect(got).close_to(oracle.sinusoidal_positions, dtypes=[torch.float32])


@pytest.mark.points(1)
@pytest.mark.handout("positions")
def test_there_may_be_one_position_or_none(submission):
    """Lengths 1 and 0 work like any other."""
    for length in (1, 0):
        got = submission.call("sinusoidal_positions", length, 6)
        expect(got).close_to(oracle.sinusoidal_positions, dtypes=[torch.float32])


# --- the layers -----------------------------------------------------------------------------------------------------

SIZES = (24, 4, 40)  # d_model, nhead, dim_feedforward


def weights(draw, name, d_model=24, nhead=4, dim_feedforward=40, bias=True, dtype="float32"):
    """A state dict of PyTorch's layer, filled with numbers large enough to expose mistakes."""
    layer = getattr(nn, f"Transformer{name}")(d_model, nhead, dim_feedforward, bias=bias, device="meta")
    return {
        entry: draw.normal(*tensor.shape, dtype=dtype, scale=0.3, mean=is_gain(entry))
        for entry, tensor in layer.state_dict().items()
    }


def is_gain(entry):
    """Whether this is the weight of a norm, which is around 1 while other weights are around 0."""
    return entry.startswith("norm") and entry.endswith("weight")


def sequences(draw, name, batch=2, d_model=24, dtype="float32"):
    """The inputs of a layer: src, or tgt and a longer memory."""
    lengths = (6,) if name == "EncoderLayer" else (5, 7)
    return [draw.normal(batch, length, d_model, dtype=dtype) for length in lengths]


ORACLES = {"EncoderLayer": oracle.encoder_layer, "DecoderLayer": oracle.decoder_layer}
BOTH = pytest.mark.parametrize("name", ["EncoderLayer", "DecoderLayer"])


@pytest.mark.points(1)
@BOTH
@pytest.mark.handout("layers")
def test_the_state_dict_is_pytorch_s(submission, name):
    """The parameters have the names and shapes of PyTorch's layer, with and without biases."""
    for bias in (True, False):
        state = submission.make(name, *SIZES, bias=bias).state_dict().output
        theirs = getattr(nn, f"Transformer{name}")(*SIZES, bias=bias).state_dict()
        shapes = {entry: tuple(tensor.shape) for entry, tensor in state.items()}
        expected = {entry: tuple(tensor.shape) for entry, tensor in theirs.items()}
        wrong = sorted(entry for entry in {*shapes, *expected} if shapes.get(entry) != expected.get(entry))
        expect.that(
            not wrong,
            f"with bias={bias}, entries of the state dict differ from torch.nn.Transformer{name}'s: {', '.join(wrong)}",
            expected=", ".join(f"{entry} {expected.get(entry, 'missing')}" for entry in wrong),
            got=", ".join(f"{entry} {shapes.get(entry, 'missing')}" for entry in wrong),
        )


@pytest.mark.points(output=1, gradients=1)
@BOTH
@pytest.mark.handout("layers")
def test_it_computes_what_pytorch_s_layer_computes(submission, draw, part, name):
    """With the weights of PyTorch's layer, it returns that layer's output and gradients."""
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
    """With norm_first, each sublayer gets the normalised input, and the residual bypasses the norm."""
    state, inputs = weights(draw, name), sequences(draw, name)
    got = submission.make(name, *SIZES, norm_first=True).load(state).eval().call(*inputs, grad=True)
    expect(got).close_to(ORACLES[name], state, *inputs, nhead=4, norm_first=True)


@pytest.mark.points(1)
@BOTH
@pytest.mark.handout("feed-forward")
def test_gelu_is_the_exact_one(submission, draw, name):
    """activation="gelu" is x · Φ(x), with the error function."""
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
    """activation may be any function of a tensor, such as silu."""
    for name in ORACLES:
        state, inputs = weights(draw, name), sequences(draw, name)
        got = submission.run(output_with_silu, name, SIZES, state, inputs)
        expect(got).close_to(ORACLES[name], state, *inputs, nhead=4, activation=F.silu)


@pytest.mark.points(1)
@pytest.mark.handout("feed-forward")
def test_an_unknown_activation_is_refused(submission, draw):
    """Any string other than "relu" and "gelu" raises a ValueError that names it."""
    for name in ORACLES:
        inputs = sequences(draw, name)
        got, ordinary = (submission.make(name, *SIZES, activation=each).call(*inputs) for each in ("swoosh", "gelu"))
        expect(got).raises(ValueError, mentioning=["swoosh"], unlike=ordinary)


@pytest.mark.points(1)
@BOTH
@pytest.mark.handout("norms")
def test_the_epsilon_of_the_norms_can_be_set(submission, draw, name):
    """layer_norm_eps applies to every norm of the layer."""
    state, inputs = weights(draw, name), sequences(draw, name)
    got = submission.make(name, *SIZES, layer_norm_eps=0.5).load(state).eval().call(*inputs)
    expect(got).close_to(ORACLES[name], state, *inputs, nhead=4, layer_norm_eps=0.5)


@pytest.mark.points(1)
@BOTH
@pytest.mark.handout("layers")
def test_the_sequence_may_come_first(submission, draw, name):
    """With batch_first=False, sequences are (S, B, E)."""
    state, inputs = weights(draw, name), [x.transpose(0, 1).contiguous() for x in sequences(draw, name)]
    got = submission.make(name, *SIZES, batch_first=False).load(state).eval().call(*inputs)
    expect(got).close_to(ORACLES[name], state, *inputs, nhead=4, batch_first=False)


@pytest.mark.points(1)
@BOTH
@pytest.mark.handout("layers")
def test_it_computes_in_the_dtype_of_its_weights(submission, draw, name):
    """In float64 and bfloat16, it is as accurate as the dtype allows."""
    for dtype in ("float64", "bfloat16"):
        state, inputs = weights(draw, name, dtype=dtype), sequences(draw, name, dtype=dtype)
        made = submission.make(name, *SIZES).to(inputs[0].dtype).load(state).eval()
        got = made.call(*inputs, grad=dtype == "float64")  # bfloat16 rounding can cross relu's kink
        expect(got).close_to(ORACLES[name], state, *inputs, nhead=4)


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.parametrize("shape", [(6, 6), (8, 6, 6)])
@pytest.mark.handout("masks")
def test_src_mask_hides_keys_from_queries(submission, draw, shape):
    """src_mask is the same for all, (S, S), or per head and sequence; True = hidden, numbers are added."""
    state, (src,) = weights(draw, "EncoderLayer"), sequences(draw, "EncoderLayer")
    made = submission.make("EncoderLayer", *SIZES).load(state).eval()
    for mask in (~draw.mask(*shape), draw.normal(*shape).masked_fill(~draw.mask(*shape), -math.inf)):
        got = made.call(src, src_mask=mask, grad=[src])
        expect(got).close_to(oracle.encoder_layer, state, src, mask, nhead=4)


@pytest.mark.points(1)
@pytest.mark.parametrize("which", ["tgt_mask", "memory_mask"])
@pytest.mark.handout("masks")
def test_each_attention_of_the_decoder_has_its_own_mask(submission, draw, which):
    """tgt_mask applies to the self-attention, memory_mask to the attention to memory."""
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
    """The oracle of `outputs_at`: the output at padded positions is unspecified."""

    def selected(*args, **kwargs):
        return layer(*args, **kwargs)[real]

    selected.dims = ("position", "channel")
    return selected


def paddings(draw, *lengths, keys):
    """The same padding as a boolean mask (True = padding) and as an additive one (-inf at padding)."""
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
    """tgt_key_padding_mask applies to the self-attention, memory_key_padding_mask to the attention to memory."""
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
    """A causal mask and padding work together, in self-attention and in the attention to memory."""
    state, (tgt, memory) = weights(draw, "DecoderLayer"), sequences(draw, "DecoderLayer", batch=3)
    real = torch.arange(5) < torch.tensor([[5], [3], [2]])
    causal, some = torch.ones(5, 5, dtype=torch.bool).triu(1), ~draw.mask(5, 7)
    some[:, 0] = False
    masks = {"tgt_mask": causal, "tgt_key_padding_mask": ~real, "memory_mask": some}
    masks["memory_key_padding_mask"] = torch.arange(7) >= torch.tensor([[4], [7], [1]])
    got = submission.run(outputs_at, "DecoderLayer", SIZES, state, [tgt, memory], masks, real)
    expect(got).close_to(at(real, oracle.decoder_layer), state, tgt, memory, nhead=4, **masks)


# --- dropout --------------------------------------------------------------------------------------------------------

# The parts of each layer: the last linear map, the bias that feeds it, and a name for messages.
SELF_ATTENTION = ("self_attn.out_proj", "self_attn.in_proj_bias", "self-attention")
TO_MEMORY = ("multihead_attn.out_proj", "multihead_attn.in_proj_bias", "the attention to memory")
FEED_FORWARD = ("linear2", "linear1.bias", "the feed-forward network")
SUBLAYERS = {
    "EncoderLayer": [SELF_ATTENTION, FEED_FORWARD],
    "DecoderLayer": [SELF_ATTENTION, TO_MEMORY, FEED_FORWARD],
}


def only(name, last, first, inside):
    """Weights with which one sublayer adds 1 to every channel but the first, and the others add nothing.

    `inside`: the 1 comes from an attention weight or an activation, each dropped independently; otherwise from a bias.
    """
    state = getattr(nn, f"Transformer{name}")(16, 16, 16).state_dict()
    state = {entry: torch.full_like(tensor, is_gain(entry)) for entry, tensor in state.items()}
    ones = torch.ones(16).index_fill(0, torch.tensor(0), 0)
    if inside:
        state[first].fill_(1)
        state[f"{last}.weight"] = torch.diag(ones)
    else:
        state[f"{last}.bias"] = ones
    return state


@pytest.mark.points(1)
@pytest.mark.parametrize("where", ["outputs", "inside"])
@BOTH
@pytest.mark.handout("dropout")
def test_dropout_hits_every_sublayer_in_training(submission, draw, name, where):
    """In training mode, dropout applies to sublayer outputs, attention weights and activations."""
    keep = 0.75 if where == "outputs" else 0.75**2  # values from inside are dropped once more in the sublayer's output
    for (last, first, words), norm_first in itertools.product(SUBLAYERS[name], (False, True)):
        # A key's weight is 1 only if it is the only key. Everything else works at several positions of a sequence.
        length = 1 if where == "inside" and "attention" in words else 4
        inputs = [torch.zeros(256 // length, length, 16) for _ in sequences(draw, name)]
        made = submission.make(name, 16, 16, 16, dropout=0.25, norm_first=norm_first)
        output = made.load(only(name, last, first, where == "inside")).train().call(*inputs).output
        kept = output[..., 1:] > output[..., :1] + 1e-3  # the first channel shows what a dropped number becomes
        if where == "inside":
            words += ", with attention weights and activations dropped earlier,"
        share, noise = kept.double().mean().item(), 5 * math.sqrt(keep * (1 - keep) / kept.numel())
        expect.that(
            abs(share - keep) < noise,
            f"{words} keeps {share:.1%} of its numbers with dropout=0.25 and norm_first={norm_first}, not {keep:.1%}",
        )
        for axis, neighbours in enumerate(("sequences", "positions", "channels")):
            if kept.size(axis) == 1:
                continue
            first, second = kept.narrow(axis, 0, kept.size(axis) - 1), kept.narrow(axis, 1, kept.size(axis) - 1)
            alike = (first == second).double().mean().item()
            expect.that(
                abs(alike - keep**2 - (1 - keep) ** 2) < 2 * noise,
                f"{words} drops the same numbers in neighbouring {neighbours}: drop each number independently",
            )
        if norm_first:  # the output is the residual sum itself
            scaled = output[..., 1:][kept]
            expect.that(
                (scaled * keep - 1).abs().max() < 1e-4,
                f"{words} turns a kept 1 into {scaled.mean():.4g} with dropout=0.25, not {1 / keep:.4g}",
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
    """Sizes, options and masks work in any combination, in float64."""
    name, sizes, options, bias, batch, lengths, kinds, seed = layer
    draw.generator.manual_seed(draw.seed + seed)  # so that a repeated example is the same
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
    made = submission.make(name, *sizes, bias=bias, **options).to(torch.float64).load(state).eval()
    expect(made.call(*inputs, **masks)).close_to(ORACLES[name], state, *inputs, nhead=sizes[1], **options, **masks)


# --- Seq2Seq --------------------------------------------------------------------------------------------------------
# The inside of the model is up to the submission, so the scenarios test what the logits depend on. Logits that must be
# equal may differ by rounding, about 1e-7 of their size, if the order of computation differs; a mistake changes them by
# 1e-2 or so. The limit is 1e-5.


def logits_of_a_new_model(module, src, tgt):
    return module.Seq2Seq(11, 13, 32, 4, 2).eval()(src, tgt)


@pytest.mark.points(1)
@pytest.mark.handout("seq2seq")
def test_every_target_position_gets_logits(submission, draw):
    """The logits are (B, T, tgt_vocab), finite and of the parameters' dtype, for any lengths."""
    for batch, source, target in ((3, 7, 5), (1, 1, 1), (2, 3, 40)):
        src, tgt = draw.integers(0, 11, batch, source), draw.integers(0, 13, batch, target)
        got = submission.run(logits_of_a_new_model, src, tgt)
        expect(got).shaped(batch, target, 13, dtype=torch.float32)
        expect.that(got.output.isfinite().all(), "the logits of a new model are not all finite")


def positions_that_change(module, src, tgt):
    """For each source and target token of the first sequence: where, (B, T), the logits change with it."""
    model = module.Seq2Seq(11, 13, 32, 4, 2).eval()

    def changed(tokens, index, vocabulary):
        before, token = model(src, tgt), tokens[0, index].item()
        tokens[0, index] = (token + 1) % vocabulary
        after = model(src, tgt)
        tokens[0, index] = token
        return ((after - before).abs().amax(-1) > 1e-5 * before.abs().max()).tolist()

    with torch.no_grad():
        return {
            "source": [changed(src, index, 11) for index in range(src.size(1))],
            "target": [changed(tgt, index, 13) for index in range(tgt.size(1))],
        }


@pytest.mark.points(earlier=1, later=1)
@pytest.mark.handout("seq2seq")
def test_logits_depend_on_earlier_target_tokens_only(submission, draw, part):
    """The logits at t depend on all target tokens up to t, and on no later ones."""
    src, tgt = draw.integers(0, 11, 2, 4), draw.integers(0, 13, 2, 5)
    changes = submission.run(positions_that_change, src, tgt).output["target"]
    for token, (row, _) in enumerate(changes):
        early = [position for position in range(token) if row[position]]
        deaf = [position for position in range(token, 5) if not row[position]]
        with part("later"):
            expect.that(not early, f"the logits at {early} depend on the target token at {token}, which comes later")
        with part("earlier"):
            expect.that(not deaf, f"the logits at {deaf} do not depend on the target token at {token}")


@pytest.mark.points(1)
@pytest.mark.handout("seq2seq")
def test_logits_depend_on_the_whole_source(submission, draw):
    """Every logit depends on every source token of its own sequence, and on no other sequence."""
    src, tgt = draw.integers(0, 11, 2, 4), draw.integers(0, 13, 2, 5)
    changes = submission.run(positions_that_change, src, tgt).output
    for token, (row, _) in enumerate(changes["source"]):
        deaf = [position for position in range(5) if not row[position]]
        expect.that(not deaf, f"the logits at {deaf} do not depend on the source token at {token}")
    for kind in ("source", "target"):
        leaks = any(any(other) for _, other in changes[kind])
        expect.that(not leaks, f"the logits of one sequence depend on the {kind} of another sequence in the batch")


def what_the_order_changes(module, src, tgt):
    model = module.Seq2Seq(11, 13, 32, 4, 2).eval()
    with torch.no_grad():
        logits, exchanged = model(src, tgt), model(src.flip(1), tgt)
    limit = 1e-5 * logits.abs().max()
    return {
        "source": bool((logits - exchanged).abs().max() > limit),
        "target": bool((logits[:, 0] - logits[:, 1]).abs().max() > limit),
    }


@pytest.mark.points(source=1, target=1)
@pytest.mark.handout("seq2seq")
def test_source_and_target_carry_positions(submission, part):
    """The order of the source matters, and so does the position of a token in the target."""
    src, tgt = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[5, 5, 5]])
    matters = submission.run(what_the_order_changes, src, tgt).output
    with part("source"):
        expect.that(matters["source"], "a source gets the same logits when reversed: it carries no positions")
    with part("target"):
        expect.that(matters["target"], "a token gets the same logits anywhere in the target: it carries no positions")


def rows_as_if_alone(module, src, tgt, lengths):
    """For each row of a padded batch, whether it gets the same logits as the row alone."""
    model = module.Seq2Seq(11, 13, 32, 4, 2).eval()
    padding = torch.arange(src.size(1)) >= torch.tensor(lengths)[:, None]
    with torch.no_grad():
        logits = model(src, tgt, src_key_padding_mask=padding)
        alone = torch.cat([model(src[[row], :length], tgt[[row]]) for row, length in enumerate(lengths)])
    return ((logits - alone).abs().amax((1, 2)) <= 1e-5 * alone.abs().max()).tolist()


@pytest.mark.points(2)
@pytest.mark.handout("seq2seq")
def test_a_padded_row_gives_what_the_row_alone_gives(submission, draw):
    """Neither the encoder nor the decoder sees padding of the source."""
    lengths = [7, 4, 1]
    alone = submission.run(rows_as_if_alone, draw.integers(0, 11, 3, 7), draw.integers(0, 13, 3, 5), lengths).output
    wrong = [length for length, same in zip(lengths, alone, strict=True) if not same]
    expect.that(not wrong, f"sources of length {wrong}, padded to 7, get different logits than without padding")


def after_loading(module, src, tgt):
    """Whether two new models differ, and whether they still do after one has loaded the other's state dict."""
    model, other = module.Seq2Seq(11, 13, 32, 4, 2).eval(), module.Seq2Seq(11, 13, 32, 4, 2).eval()

    def differ():
        with torch.no_grad():
            return not torch.allclose(model(src, tgt), other(src, tgt), atol=1e-5)

    before = differ()
    other.load_state_dict(model.state_dict())
    return {"before": before, "after": differ()}


@pytest.mark.points(1)
@pytest.mark.handout("seq2seq")
def test_everything_learned_is_in_the_state_dict(submission, draw):
    """A model that loads another model's state dict returns the same logits."""
    differ = submission.run(after_loading, draw.integers(0, 11, 2, 4), draw.integers(0, 13, 2, 5)).output
    expect.that(differ["before"], "two new models return the same logits: their weights should be random")
    expect.that(not differ["after"], "with another model's state dict the logits differ: the state dict is incomplete")


def parameters_of_deeper_models(module):
    return [sum(p.numel() for p in module.Seq2Seq(11, 13, 32, 4, depth).parameters()) for depth in (1, 2, 3)]


@pytest.mark.points(1)
@pytest.mark.handout("seq2seq")
def test_every_layer_has_weights_of_its_own(submission):
    """Each additional layer adds the parameters of one encoder layer and one decoder layer."""
    one, two, three = submission.run(parameters_of_deeper_models).output
    attentions = 3 * 4 * 32 * 32
    expect.that(
        three - two == two - one >= attentions,
        f"with 1, 2 and 3 layers there are {one:,}, {two:,} and {three:,} parameters: each layer should add the same "
        f"number, at least the {attentions:,} of its three attentions",
    )


def parameters_without_gradient(module, src, tgt):
    model = module.Seq2Seq(11, 13, 32, 4, 2)
    model(src, tgt).logsumexp(-1).sum().backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.points(1)
@pytest.mark.handout("seq2seq")
def test_a_gradient_reaches_every_parameter(submission, draw):
    """The loss can change every parameter: encoder, decoder, embeddings."""
    names = submission.run(parameters_without_gradient, draw.integers(0, 11, 2, 4), draw.integers(0, 13, 2, 5)).output
    expect.that(not names, f"no gradient reaches {', '.join(names[:5])}{' …' if names[5:] else ''}")


# --- greedy_decode --------------------------------------------------------------------------------------------------


def teach(model, src, padding, targets):
    """Train the model on one target, bos, tokens and eos, for each source; after eos it learns to repeat token 3."""
    tgt = torch.tensor([target + [3] * (7 - len(target)) for target in targets])
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(50):
        optimizer.zero_grad()
        logits = model(src, tgt[:, :-1], src_key_padding_mask=padding)
        F.cross_entropy(logits.flatten(0, 1), tgt[:, 1:].flatten()).backward()
        optimizer.step()


def facts_of_row(model, row, source, eos):
    """Number of new tokens up to the row's own eos, whether it has one, are all most likely, is only eos after it."""
    end = (row[1:] == eos).nonzero()[:1].sum().item() + 1  # the place of the row's own eos
    ended = bool((row[1:] == eos).any())
    new = row[1 : 1 + end] if ended else row[1:]
    best = True
    if len(new):
        with torch.no_grad():
            logits = model(source[None], row[None, : len(new)])[0]
        best = logits.gather(1, new[:, None])[:, 0] >= logits.amax(1) - 1e-4 * logits.abs().amax(1)  # or a tie
    quiet = bool((row[1 + len(new) :] == eos).all())
    return {"said": len(new), "ended": ended, "best": bool(torch.as_tensor(best).all()), "quiet": quiet}


def facts_of_decodings(module, src, lengths, targets, limits):
    """What is true of the ids that a model taught these targets returns, for each max_new_tokens of `limits`."""
    model, bos, eos = module.Seq2Seq(11, 13, 32, 4, 1), targets[0][0], targets[0][-1]
    padding = None if lengths is None else torch.arange(src.size(1)) >= torch.tensor(lengths)[:, None]
    teach(model, src, padding, targets)
    model.eval()

    graphs = []  # for each output of each module, whether it requires a gradient
    for part in model.modules():
        part.register_forward_hook(lambda *call: graphs.append(getattr(call[-1], "requires_grad", False)))
    facts = []
    for limit in limits:
        graphs.clear()
        ids = module.greedy_decode(model, src, bos, eos, limit, src_key_padding_mask=padding)
        facts.append({"form": (str(ids.dtype), ids.dim(), len(ids)), "bos": bool((ids[:, :1] == bos).all())})
        if facts[-1]["form"] != ("torch.int64", 2, len(src)):
            continue
        facts[-1] |= {"new": ids.size(1) - 1, "graph": any(graphs)}
        sources = [source[:length] for source, length in zip(src, lengths or [None] * len(src), strict=True)]
        rows = [facts_of_row(model, row, source, eos) for row, source in zip(ids, sources, strict=True)]
        facts[-1] |= {fact: [row[fact] for row in rows] for fact in ("said", "ended", "best", "quiet")}
    return facts


TARGETS = [[0, 5, 12], [0, 7, 8, 6, 9, 12], [0, 12], [0, 6, 6, 12]]


def decodings(submission, draw, lengths=None, targets=TARGETS, limits=(9,)):
    """The facts about decoding four sources, once the ids have the right form."""
    facts = submission.run(facts_of_decodings, draw.integers(0, 11, 4, 5), lengths, targets, list(limits)).output
    for each in facts:
        dtype, dimensions, rows = each["form"]
        expect.that(
            (dtype, dimensions, rows) == ("torch.int64", 2, 4),
            "the ids should be an int64 tensor (B, 1 + N)",
            expected="torch.int64 with 2 dimensions, 4 rows",
            got=f"{dtype} with {dimensions} dimensions, {rows} rows",
        )
    return facts


def rows_where_not(true):
    return [row for row, each in enumerate(true) if not each]


@pytest.mark.points(2)
@pytest.mark.handout("decoding")
def test_each_new_token_is_the_most_likely_one(submission, draw):
    """A row is bos, then always the model's most likely token after the row so far."""
    (facts,) = decodings(submission, draw)
    expect.that(facts["bos"], "not every row starts with bos")
    wrong = rows_where_not(facts["best"])
    expect.that(not wrong, f"rows {wrong} contain tokens other than those the model finds most likely")


@pytest.mark.points(2)
@pytest.mark.handout("decoding")
def test_a_row_that_has_ended_says_no_more(submission, draw):
    """After its own eos a row contains only eos; the ids are as long as the longest row, including its eos."""
    (facts,) = decodings(submission, draw)
    wrong = rows_where_not(facts["quiet"])
    expect.that(not wrong, f"rows {wrong} continue after their eos")
    longest = max(facts["said"]) if all(facts["ended"]) else 9
    expect.that(
        facts["new"] == longest,
        f"there are {facts['new']} columns of new ids, but the longest row has {longest} tokens, including its eos",
    )


@pytest.mark.points(1)
@pytest.mark.handout("decoding")
def test_max_new_tokens_is_a_limit(submission, draw):
    """No row gets more than max_new_tokens tokens, which may be 0, or stops earlier without having ended."""
    limits = (3, 1, 0)
    for limit, facts in zip(limits, decodings(submission, draw, limits=limits), strict=True):
        expect.that(facts["bos"], f"with max_new_tokens={limit} not every row starts with bos")
        expect.that(facts["new"] <= limit, f"with max_new_tokens={limit} there are {facts['new']} new tokens")
        expect.that(
            facts["new"] == limit or all(facts["ended"]),
            f"with max_new_tokens={limit} there are {facts['new']} new tokens, but not every row has ended",
        )


@pytest.mark.points(1)
@pytest.mark.handout("decoding")
def test_bos_and_eos_may_be_the_same_id(submission, draw):
    """The initial bos does not end a row, even if it is the same id as eos."""
    (facts,) = decodings(submission, draw, targets=[[12, *target[1:]] for target in TARGETS])
    expect.that(
        facts["bos"] and all(facts["best"]) and all(facts["quiet"]),
        "with bos == eos the rows contain tokens other than those the model finds most likely",
    )
    longest = max(facts["said"]) if all(facts["ended"]) else 9
    expect.that(facts["new"] == longest, f"with bos == eos there are {facts['new']} columns of new ids, not {longest}")


@pytest.mark.points(1)
@pytest.mark.handout("decoding")
def test_padding_changes_no_translation(submission, draw):
    """Each row of a padded batch gets the tokens most likely for the row alone, without padding."""
    (facts,) = decodings(submission, draw, lengths=[5, 3, 4, 1])
    wrong = rows_where_not(facts["best"])
    expect.that(not wrong, f"rows {wrong} are translated differently than alone: their padding is seen")


@pytest.mark.points(1)
@pytest.mark.handout("decoding")
def test_decoding_keeps_no_graph(submission, draw):
    """No graph is kept for backward."""
    (facts,) = decodings(submission, draw)
    expect.that(not facts["graph"], "an output of one of the model's modules requires a gradient: a graph is kept")

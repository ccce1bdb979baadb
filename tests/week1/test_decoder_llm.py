"""Graded tests of week1/decoder_llm: the parts, the cache, the model read in every way, generation."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from grading import expect
from tests.oracles import decoder as oracle

# --- rms_norm and swiglu --------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("rms-norm")
def test_the_worked_example(submission):
    """The handout's worked example of RMSNorm comes out."""
    got = submission.call("rms_norm", torch.tensor([[3.0, -4.0]]), torch.tensor([1.0, 2.0]), 0.0)
    expect(got).close_to(oracle.rms_norm)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("rms-norm")
def test_rms_norm_divides_by_the_root_of_the_mean_square(submission, draw, part):
    """x is divided by √(mean(x²) + eps), without taking off its mean, and multiplied by the weight."""
    for shape in ((2, 5, 16), (16,), (0, 16)):
        x, weight = draw.normal(*shape, mean=0.5), draw.normal(16)
        with part("output"):
            expect(submission.call("rms_norm", x, weight, 1e-6)).close_to(oracle.rms_norm)
        with part("gradients"):
            expect(submission.call("rms_norm", x, weight, 1e-6, grad=True)).close_to(oracle.rms_norm)


@pytest.mark.points(1)
@pytest.mark.handout("rms-norm")
def test_epsilon_is_added_to_the_mean_square(submission, draw):
    """eps stands under the root: it rules where x is small, and keeps zeros zero with a finite gradient."""
    x, weight = 1e-2 * draw.normal(2, 5, 16), draw.normal(16)
    x[0, 0] = 0
    got = submission.call("rms_norm", x, weight, 1e-4, grad=True)
    expect(got).close_to(oracle.rms_norm)


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.handout("rms-norm")
def test_rms_norm_keeps_the_dtype_and_overflows_in_none(submission, draw, dtype):
    """The result has x's dtype, and squares that float16 could not hold do no harm."""
    x, weight = draw.normal(2, 5, 16, dtype=dtype, scale=1000), draw.normal(16, dtype=dtype)
    expect(submission.call("rms_norm", x, weight, 1e-5)).close_to(oracle.rms_norm)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("swiglu")
def test_swiglu_gates_the_one_projection_by_the_other(submission, draw, part):
    """SiLU of the gate times the other projection, and back to the first width."""
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
    return module.rope_frequencies(SimpleNamespace(**settings))


def logarithms(frequencies):
    """Frequencies lie many powers of ten apart: as logarithms each of them counts."""
    return frequencies.log()


@pytest.mark.points(1)
@pytest.mark.handout("rope")
def test_plain_frequencies_fall_from_one_to_almost_one_over_theta(submission):
    """θ_i = rope_theta^(-2i / D), and D is head_dim, or hidden_size / num_attention_heads where that is not given."""
    sizes = {"hidden_size": 48, "num_attention_heads": 4}
    for rope in (PLAIN, {"rope_theta": 1e6}):
        for more in ({}, {"head_dim": None}, {"head_dim": 16}):
            settings = {**sizes, **more, "rope_parameters": rope}
            got = submission.run(frequencies, settings)
            expect(got).close_to(oracle.rope_frequencies, settings, dtypes=[torch.float32])


@pytest.mark.points(2)
@pytest.mark.handout("llama3-rope")
def test_llama_3_stretches_the_slow_frequencies(submission):
    """Fast pairs are kept, slow ones divided by the factor, and those between interpolated."""
    for rope in (LLAMA3, {**LLAMA3, "factor": 32.0, "high_freq_factor": 8.0, "original_max_position_embeddings": 512}):
        settings = {"hidden_size": 512, "num_attention_heads": 4, "rope_parameters": rope}
        got = submission.run(frequencies, settings)
        expect(got).close_to(oracle.rope_frequencies, settings, dtypes=[torch.float32])


@pytest.mark.points(1)
@pytest.mark.handout("rope")
def test_what_rope_cannot_do_is_refused(submission, draw):
    """An odd head dimension and an unknown rope_type are ValueErrors that name them."""
    sizes = {"hidden_size": 45, "num_attention_heads": 3}
    expect(submission.run(frequencies, {**sizes, "rope_parameters": PLAIN})).raises(ValueError, mentioning=["15"])
    settings = {**sizes, "head_dim": 16, "rope_parameters": {"rope_type": "spiral", "rope_theta": 10000.0}}
    expect(submission.run(frequencies, settings)).raises(ValueError, mentioning=["spiral"])
    q, table = draw.normal(1, 2, 3, 5), draw.normal(1, 3, 5)
    expect(submission.call("apply_rotary_pos_emb", q, q, table, table)).raises(ValueError, mentioning=["5"])


def tables(draw, *shape, dtype="float32"):
    """Cosine and sine of random angles, in both halves the same."""
    angles = draw.uniform(*shape[:-1], shape[-1] // 2, high=6.3, dtype="float64")
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(getattr(torch, dtype)), angles.sin().to(getattr(torch, dtype))


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("rope")
def test_pairs_of_channels_are_turned(submission, draw, part):
    """Channel i of the first half and of the second are a pair that is turned, in queries and in the fewer keys."""
    q, k, (cos, sin) = draw.normal(2, 4, 5, 8), draw.normal(2, 2, 5, 8), tables(draw, 2, 5, 8)
    with part("output"):
        expect(submission.call("apply_rotary_pos_emb", q, k, cos, sin)).close_to(oracle.apply_rotary_pos_emb)
    with part("gradients"):
        got = submission.call("apply_rotary_pos_emb", q, k, cos, sin, grad=[q, k])
        expect(got).close_to(oracle.apply_rotary_pos_emb)


@pytest.mark.points(1)
@pytest.mark.handout("rope")
def test_heads_may_come_after_the_positions(submission, draw):
    """With unsqueeze_dim=2 queries and keys are (B, L, H, D)."""
    q, k, (cos, sin) = draw.normal(2, 5, 5, 8), draw.normal(2, 5, 1, 8), tables(draw, 2, 5, 8)
    got = submission.call("apply_rotary_pos_emb", q, k, cos, sin, unsqueeze_dim=2)
    expect(got).close_to(oracle.apply_rotary_pos_emb)


@pytest.mark.points(1)
@pytest.mark.handout("rope")
def test_one_table_may_serve_the_whole_batch(submission, draw):
    """cos and sin may be (1, L, D); queries and keys need not be contiguous, and their dtype stays."""
    for dtype in ("float32", "float64", "bfloat16"):
        q, k = (draw.normal(3, 5, heads, 16, dtype=dtype)[..., ::2].transpose(1, 2) for heads in (4, 2))
        cos, sin = tables(draw, 1, 5, 8, dtype=dtype)
        expect(submission.call("apply_rotary_pos_emb", q, k, cos, sin)).close_to(oracle.apply_rotary_pos_emb)


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("m-rope")
def test_each_section_of_pairs_turns_with_its_own_position(submission, draw, part):
    """The first pairs turn with the time, the next with the height, the last with the width."""
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
    """mrope_section that does not sum to D / 2 is a ValueError that names it."""
    q, (cos, sin) = draw.normal(2, 3, 5, 16), tables(draw, 3, 2, 5, 16)
    for section in ([4, 6, 6], [2, 3, 2]):
        got = submission.call("multimodal_rope", q, q, cos, sin, section)
        expect(got).raises(ValueError, mentioning=[", ".join(map(str, section)), "16"])


# --- the cache ------------------------------------------------------------------------------------------------------


def updates(module, key, value, pieces):
    """Update layers 0 and 1 of one cache and layer 0 of another one, piece by piece; after each all that can be seen."""
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
    """update gives all keys and values of the layer in order; layers and caches have nothing to do with each other."""
    key, value, pieces = draw.normal(2, 2, 7, 4), draw.normal(2, 2, 7, 4), [3, 1, 1, 2]
    expect(submission.run(updates, key, value, pieces)).equal_to(right_updates(key, value, pieces))

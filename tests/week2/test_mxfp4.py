"""Graded tests of week2/mxfp4: MXFP4's codes and scales, decoding, then INT4, then the error of both."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grading import expect
from tests.oracles import microscaling as oracle

# What the exercise asks for: a hand-in that names it is looked at by a person (grading/course/review.py).
READY_MADE = (
    "convert_moe_packed_tensors",
    "Mxfp4GptOssExperts",
    "MXTensor",
    "to_mx",
)

BYTES = torch.arange(256, dtype=torch.uint8)
EVERY_PAIR = BYTES.reshape(16, 16)  # 16 blocks that hold each of the 256 pairs of codes once


def expect_mxfp4(got, x):
    """The answer is x in MXFP4; if not, the message explains the first wrong number."""
    blocks, scales = oracle.quantize_mxfp4(x)
    answer = got.output
    wanted = [(part.shape, part.dtype) for part in (blocks, scales)]
    if isinstance(answer, (tuple, list)) and [_form(part) for part in answer] == wanted:
        values = x.double().reshape(*scales.shape, 32)
        for place in (answer[1] != scales).nonzero()[:1].tolist():
            place = tuple(place)
            expect.that(
                False,
                f"the scale of block {place} is wrong; its largest magnitude is {values[place].abs().max():.9g}",
                expected=f"scale byte {int(scales[place])}",
                got=f"scale byte {int(answer[1][place])}",
            )
        for *block, byte in (answer[0] != blocks).nonzero()[:1].tolist():
            pair = values[(*block, slice(2 * byte, 2 * byte + 2))] / 2.0 ** (int(scales[tuple(block)]) - 127.0)
            expect.that(
                False,
                f"byte {byte} of block {tuple(block)} is wrong; divided by the block's scale, "
                f"its two values are {pair[0]:.9g} and {pair[1]:.9g}",
                expected="low and high code {1} and {0}".format(*divmod(int(blocks[(*block, byte)]), 16)),
                got="low and high code {1} and {0}".format(*divmod(int(answer[0][(*block, byte)]), 16)),
            )
    expect(got).equal_to((blocks, scales))


def _form(part):
    return getattr(part, "shape", None), getattr(part, "dtype", None)


def with_largest(amax, dtype):
    """One block for each number in `amax`, which is the block's largest: (n, 32)."""
    x = torch.tensor(amax, dtype=torch.float64)[:, None] * torch.linspace(1, -0.9, 32, dtype=torch.float64)
    x[:, 0] = torch.tensor(amax, dtype=torch.float64)
    return x.to(dtype)


# --- the sixteen codes ------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("example")
def test_the_worked_example(submission):
    """The handout's worked example has the codes and the scale given there."""
    x = torch.zeros(32)
    x[:10] = torch.tensor([0.9, -3.6, 7.0, 0.2, -0.2, 1.5, 2.5, 5.0, 10.0, -14.0])
    expect_mxfp4(submission.call("quantize_mxfp4", x), x)


@pytest.mark.points(1)
@pytest.mark.handout("codes")
def test_a_code_stands_for_an_e2m1_number(submission):
    """Codes 0 to 15 mean 0, 0.5, 1, 1.5, 2, 3, 4, 6 and the same with a minus."""
    blocks = torch.tensor([[0x11 * code] * 16 for code in range(16)], dtype=torch.uint8)
    scales = torch.full((16,), 127, dtype=torch.uint8)
    got = submission.call("dequantize_mxfp4", blocks, scales, torch.float32)
    expect(got).equal_to(oracle.dequantize_mxfp4(blocks, scales, torch.float32))


@pytest.mark.points(packed=1, unpacked=1)
@pytest.mark.handout("packing")
def test_the_first_of_two_values_is_in_the_low_four_bits(submission, draw, part):
    """Value 2i of a block is in the low four bits of byte i, value 2i + 1 in the high four."""
    x = torch.full((32, 32), 0.5).masked_fill(torch.eye(32, dtype=torch.bool), 4.0)
    with part("packed"):
        expect_mxfp4(submission.call("quantize_mxfp4", x), x)
    with part("unpacked"):
        blocks = draw.integers(0, 256, 6, 16).to(torch.uint8)
        scales = draw.integers(120, 134, 6).to(torch.uint8)
        got = submission.call("dequantize_mxfp4", blocks, scales, torch.float32)
        expect(got).equal_to(oracle.dequantize_mxfp4(blocks, scales, torch.float32))


@pytest.mark.points(2)
@pytest.mark.handout("rounding")
def test_a_value_is_rounded_to_the_nearest_number(submission):
    """Every multiple of 1/256 between -8 and 8 that is not a tie gets the nearest number's code."""
    x = torch.arange(-2048, 2048) / 256
    x = x[~torch.isin(x.abs(), torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]))][:4064].reshape(-1, 32)
    x[:, 5] = torch.where(x[:, 5] < 0, -6.0, 6.0)  # every block has the scale 1
    expect_mxfp4(submission.call("quantize_mxfp4", x), x)


@pytest.mark.points(2)
@pytest.mark.handout("rounding")
def test_a_tie_goes_to_the_even_code(submission):
    """A value halfway between two numbers gets the even code, one just beside it the nearer number's."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], dtype=dtype)
        near = torch.cat([ties, ties.nextafter(ties + 1), ties.nextafter(ties * 0), ties.new_full((11,), 4.0)])  # (32,)
        x = torch.stack([near, -near, near * 32, -near / 32])
        expect_mxfp4(submission.call("quantize_mxfp4", x), x)


@pytest.mark.points(1)
@pytest.mark.handout("rounding")
def test_what_is_beyond_6_becomes_6(submission):
    """Magnitudes between 6 and 8 times the scale saturate to 6 and do not change the scale."""
    x = torch.linspace(-7.99, 7.99, 64).reshape(2, 32)
    x = torch.cat([x, x * 2**20, x * 2**-20])
    expect_mxfp4(submission.call("quantize_mxfp4", x), x)


@pytest.mark.points(1)
@pytest.mark.handout("rounding")
def test_zero_keeps_its_sign(submission, draw):
    """-0.0, and any negative value that rounds to zero, has code 8."""
    x = draw.uniform(2, 32, low=0.01, high=0.2)
    x[:, ::3] *= -1
    x[:, 4], x[:, 5], x[0, 7] = -0.0, 0.0, 4.0
    x[1, 8] = -4.0
    expect_mxfp4(submission.call("quantize_mxfp4", x), x)


# --- the scale --------------------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("scale")
def test_the_scale_is_a_quarter_of_the_power_of_two_below(submission, draw):
    """Each block has its own scale, 2^(floor(log2(amax)) - 2)."""
    x = draw.normal(3, 8 * 32)
    x = x * (2.0 ** draw.integers(-20, 21, 3, 8)).repeat_interleave(32, dim=-1)
    expect_mxfp4(submission.call("quantize_mxfp4", x), x)


@pytest.mark.points(2)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.handout("scale")
def test_the_scale_is_exact_next_to_powers_of_two(submission, dtype):
    """The scale is exact at every power of two and at the numbers just below and above it."""
    powers = 2.0 ** torch.arange(-125, 128, dtype=torch.float64)
    powers = powers.to(getattr(torch, dtype))
    below, above = powers.nextafter(powers * 0), powers.nextafter(powers * math.inf)
    x = torch.zeros(len(powers), 3, 32, dtype=powers.dtype)
    x[:, :, 7] = torch.stack([below, powers, -above], dim=1)
    x[:, :, 8] = powers[:, None] / 2
    x = x.flatten(-2)
    expect_mxfp4(submission.call("quantize_mxfp4", x), x)


@pytest.mark.points(half=1, double=1)
@pytest.mark.handout("scale")
def test_every_dtype_can_be_quantised(submission, draw, part):
    """Half precision and float64 are quantised from their exact values, without rounding them first."""
    for dtype in ("float16", "bfloat16", "float64"):
        x = draw.normal(4, 96, dtype=dtype)
        x[0] *= 2000
        x[1] /= 2000
        if dtype == "float64":  # too close to a tie or a power of two for float32
            x[2, :8] = torch.tensor([2.5, -2.5, 0.75, -0.75, 5.0, -5.0, 4.0, 4.0]).double() * (1 + 2**-40)
            x[3, 32:36] = torch.tensor([0.25, 3.5, 4.0, 8 - 2**-40], dtype=torch.float64)
        with part("double" if dtype == "float64" else "half"):
            expect_mxfp4(submission.call("quantize_mxfp4", x), x)


@pytest.mark.points(1)
@pytest.mark.handout("extremes")
def test_a_block_of_zeros_has_the_smallest_scale(submission, draw):
    """A block of zeros has scale byte 0, and codes 0 or 8."""
    x = torch.cat([torch.zeros(32), draw.normal(32), torch.zeros(16), -torch.zeros(16)])
    expect_mxfp4(submission.call("quantize_mxfp4", x), x)


@pytest.mark.points(2)
@pytest.mark.handout("extremes")
def test_subnormal_numbers_are_numbers(submission):
    """Blocks of subnormal numbers get their scale and codes like any other."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        smallest = torch.finfo(dtype).smallest_normal
        x = with_largest([smallest * 2.0**-k * m for k in range(1, 11) for m in (1.0, 1.5, 1.75)], dtype)
        expect_mxfp4(submission.call("quantize_mxfp4", x), x)


@pytest.mark.points(1)
@pytest.mark.parametrize("end", ["small", "large"])
@pytest.mark.handout("extremes")
def test_the_scale_stays_within_its_byte(submission, end):
    """Out of range, the scale is clamped to 2^-127 or 2^127, and values become 0 or saturate."""
    if end == "small":
        amax = [2.0**k for k in range(-132, -122)] + [1.9 * 2.0**-125, 2.0**-149, 1e-60, 1e-300, 5e-324]
    else:
        amax = [2.0**k for k in range(124, 134)] + [1.9 * 2.0**129, 1e60, 1e300]
    x = with_largest(amax, torch.float64)
    expect_mxfp4(submission.call("quantize_mxfp4", x), x)


@pytest.mark.points(infinite=1, nan=1)
@pytest.mark.handout("nan")
def test_a_block_with_a_nan_or_an_inf_is_nan(submission, draw, part):
    """A block with a NaN or an infinity has scale byte 255 and codes 0; other blocks are unaffected."""
    for name, bad in (("infinite", math.inf), ("infinite", -math.inf), ("nan", math.nan)):
        for dtype in ("float32", "bfloat16"):
            x = draw.normal(3, 96, dtype=dtype)
            x[0, 40], x[2, 95], x[2, 3] = bad, bad, 0.0
            with part(name):
                expect_mxfp4(submission.call("quantize_mxfp4", x), x)


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.parametrize("lead", [(), (2, 1, 3, 2)], ids=["none", "four"])
@pytest.mark.handout("scale")
def test_any_number_of_dimensions_may_stand_in_front(submission, draw, lead):
    """x, blocks and scales may have any number of leading dimensions."""
    x = draw.normal(*lead, 64)
    expect_mxfp4(submission.call("quantize_mxfp4", x), x)
    blocks, scales = oracle.quantize_mxfp4(x)
    got = submission.call("dequantize_mxfp4", blocks, scales, torch.float32)
    expect(got).equal_to(oracle.dequantize_mxfp4(blocks, scales, torch.float32))


@pytest.mark.points(1)
@pytest.mark.handout("scale")
def test_there_may_be_nothing_to_do(submission):
    """An empty leading dimension gives empty blocks and scales, which decode to an empty tensor."""
    x = torch.zeros(2, 0, 96)
    got = submission.call("quantize_mxfp4", x)
    blocks, scales = oracle.quantize_mxfp4(x)
    expect(got).equal_to((blocks, scales))
    expect(submission.call("dequantize_mxfp4", blocks, scales, torch.bfloat16)).equal_to(x.bfloat16())


@pytest.mark.points(encoding=1, decoding=1)
@pytest.mark.handout("scale")
def test_tensors_need_not_be_contiguous(submission, draw, part):
    """Tensors may have any memory layout."""
    transposed, sliced = draw.normal(64, 5, 3).transpose(0, 2), draw.normal(6, 5, 128)[::2, :, 1::2]
    for x in (transposed, sliced, draw.normal(1, 5, 64).expand(3, 5, 64)):
        with part("encoding"):
            expect_mxfp4(submission.call("quantize_mxfp4", x), x)
        with part("decoding"):
            blocks, scales = oracle.quantize_mxfp4(x)
            wanted = oracle.dequantize_mxfp4(blocks, scales, torch.float32)
            blocks, scales = blocks.mT.contiguous().mT, torch.stack([scales, scales], dim=1)[:, 0]
            expect(submission.call("dequantize_mxfp4", blocks, scales, torch.float32)).equal_to(wanted)


@pytest.mark.points(1)
@pytest.mark.handout("scale")
def test_a_width_that_blocks_cannot_fill_is_refused(submission, draw):
    """A D that is not a multiple of 32 raises ValueError, which names D."""
    ordinary = submission.call("quantize_mxfp4", draw.normal(2, 64))
    for width in (48, 31):
        got = submission.call("quantize_mxfp4", draw.normal(2, width))
        expect(got).raises(ValueError, mentioning=[width], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("packing")
def test_blocks_and_scales_must_belong_together(submission, draw):
    """Scales that do not match the blocks raise ValueError, which names both shapes, even if they broadcast."""
    shapes = [((3, 2, 16), (3, 2)), ((3, 2, 16), (3, 1)), ((3, 2, 16), (2,)), ((3, 2, 32), (3, 2))]
    ordinary, *refused = (
        submission.call(
            "dequantize_mxfp4",
            draw.integers(0, 256, *blocks).to(torch.uint8),
            draw.integers(100, 140, *scales).to(torch.uint8),
            torch.float32,
        )
        for blocks, scales in shapes
    )
    for got, both in zip(refused, shapes[1:], strict=True):
        expect(got).raises(ValueError, mentioning=both, unlike=ordinary)


# --- back to numbers --------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.handout("decoding")
def test_every_code_at_every_scale(submission, dtype):
    """Every pair of codes at every scale, 2^-127 to 2^127, decodes exactly as in transformers."""
    blocks, scales = EVERY_PAIR.expand(255, 16, 16), BYTES[:255, None].expand(255, 16)
    got = submission.call("dequantize_mxfp4", blocks, scales, getattr(torch, dtype))
    expect(got).equal_to(oracle.dequantize_mxfp4(blocks, scales, getattr(torch, dtype)))


def signs(module, blocks, scales, dtype):
    """Where dequantize_mxfp4 sets the sign bit: == does not distinguish -0.0 from 0.0."""
    return module.dequantize_mxfp4(blocks, scales, dtype).signbit()


@pytest.mark.points(1)
@pytest.mark.handout("decoding")
def test_code_8_is_minus_zero(submission):
    """A number's sign bit is its code's, even if the number is zero or too small for the dtype."""
    blocks, scales = EVERY_PAIR.expand(2, 16, 16), torch.tensor([[127], [1]], dtype=torch.uint8).expand(2, 16)
    for dtype in (torch.float32, torch.float16):
        got = submission.run(signs, blocks, scales, dtype)
        expect(got).equal_to(oracle.dequantize_mxfp4(blocks, scales, dtype).signbit())


@pytest.mark.points(1)
@pytest.mark.handout("nan")
def test_scale_byte_255_is_nan(submission):
    """A block with scale byte 255 is all NaN, whatever its codes; other blocks are not."""
    scales = torch.tensor([127, 255, 254, 255, 0, 127] + [255] * 10, dtype=torch.uint8)
    for dtype in (torch.float32, torch.float16, torch.float64):
        got = submission.call("dequantize_mxfp4", EVERY_PAIR, scales, dtype)
        expect(got).equal_to(oracle.dequantize_mxfp4(EVERY_PAIR, scales, dtype))


@pytest.mark.points(1)
@pytest.mark.handout("decoding")
def test_what_was_decoded_encodes_to_the_same_bytes(submission, draw):
    """Numbers that MXFP4 can represent encode to the blocks and scales that they came from."""
    blocks = draw.integers(0, 256, 253, 16).to(torch.uint8)
    blocks[:, 3] = 0x7E  # -4 and 6: a smaller largest number would fit a smaller scale
    scales = BYTES[:253]
    for dtype in (torch.float32, torch.bfloat16):
        x = oracle.dequantize_mxfp4(blocks.unsqueeze(1), scales.unsqueeze(1), dtype)
        got = submission.call("quantize_mxfp4", x)
        expect_mxfp4(got, x)
        expect(submission.call("dequantize_mxfp4", *got.output, dtype)).equal_to(x)


@pytest.mark.points(2)
@pytest.mark.handout("decoding")
def test_transformers_reads_your_weights(submission, draw):
    """gpt-oss's loader in transformers decodes your bytes to the same numbers as your decoder."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    weights = draw.normal(2, 6, 96, scale=0.02, dtype="bfloat16")  # (experts, out, in)
    blocks, scales = submission.call("quantize_mxfp4", weights).output
    expect.that(
        (tuple(blocks.shape), tuple(scales.shape)) == ((2, 6, 3, 16), (2, 6, 3)),
        f"weights (2, 6, 96) have blocks (2, 6, 3, 16) and scales (2, 6, 3), not {tuple(blocks.shape)} and "
        f"{tuple(scales.shape)}",
    )
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)  # (experts, in, out)
    theirs = theirs.mT.contiguous()
    expect(submission.call("dequantize_mxfp4", blocks, scales, torch.bfloat16)).equal_to(theirs)
    expect.that(
        torch.equal(theirs, oracle.dequantize_mxfp4(*oracle.quantize_mxfp4(weights), torch.bfloat16)),
        "the weights that transformers loads from your blocks and scales are not the nearest MXFP4 numbers",
    )


@st.composite
def tensors(draw):
    """A legal argument of quantize_mxfp4, except for its numbers."""
    return {
        "shape": (*draw(st.lists(st.integers(1, 3), max_size=3)), 32 * draw(st.integers(1, 3))),
        "dtype": draw(st.sampled_from(["float16", "bfloat16", "float32", "float64"])),
        "exponent": draw(st.integers(-160, 160)),
        "spread": draw(st.integers(0, 30)),
        "special": draw(st.sampled_from([0.0, -0.0, math.inf, math.nan, 1.0])),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.points(2)
@pytest.mark.handout("scale")
@settings(max_examples=30)
@given(made=tensors())
def test_any_tensor_is_quantised_right(submission, draw, made):
    """Any shape, dtype and magnitude is right, with zeros, infinities and NaNs among the numbers."""
    draw.generator.manual_seed(draw.seed + made["seed"])  # so that a repeated example is the same
    x = draw.normal(*made["shape"], dtype="float64") * 2.0 ** made["exponent"]
    x = x * 2.0 ** draw.integers(-made["spread"], 1, *made["shape"])
    x[..., draw.integers(0, made["shape"][-1], 2)] *= made["special"]
    x = x.to(getattr(torch, made["dtype"]))
    expect_mxfp4(submission.call("quantize_mxfp4", x), x)


# --- INT4 -------------------------------------------------------------------------------------------------------------


def off_ties(x, block=32):
    """x without values so close to a tie that a quotient's rounding error could carry them across."""
    _, scales = oracle.quantize_int4(x, block)
    quotients = x.double() / scales.double().repeat_interleave(block, dim=-1)
    return x.masked_fill((quotients.abs() % 1 - 0.5).abs() < 1e-5, 0)


@pytest.mark.points(codes=1, numbers=1)
@pytest.mark.handout("int4")
def test_the_worked_example_in_int4(submission, part):
    """The handout's worked example in INT4, with scale 2."""
    x = torch.zeros(32)
    x[:10] = torch.tensor([0.9, -3.6, 7.0, 0.2, -0.2, 1.5, 2.5, 5.0, 10.0, -14.0])
    codes, scales = oracle.quantize_int4(x)
    with part("codes"):
        expect(submission.call("quantize_int4", x)).equal_to((codes, scales))
    with part("numbers"):
        got = submission.call("dequantize_int4", codes, scales, torch.float32)
        expect(got).close_to(oracle.dequantize_int4)


@pytest.mark.points(float32=1, others=1)
@pytest.mark.handout("int4")
def test_an_int4_scale_is_a_seventh_of_the_largest_magnitude(submission, draw, part):
    """Each block's scale is amax / 7 in x's dtype, and its codes are value / scale, rounded."""
    for dtype in ("float32", "float16", "bfloat16", "float64"):
        x = draw.normal(4, 96, dtype=dtype)
        x[0] *= 200
        x[1, :32] /= 200
        x = off_ties(x)
        with part("float32" if dtype == "float32" else "others"):
            expect(submission.call("quantize_int4", x)).equal_to(oracle.quantize_int4(x))


@pytest.mark.points(1)
@pytest.mark.handout("int4")
def test_int4_ties_go_to_the_even_code(submission):
    """A value halfway between two codes gets the even one."""
    x = torch.tensor([7.0, -7.0, *(k + 0.5 for k in range(-7, 7)), *range(-7, 9)]).clamp(-7, 7)
    x = torch.stack([x, x / 64, x * 1024])
    expect(submission.call("quantize_int4", x)).equal_to(oracle.quantize_int4(x))


@pytest.mark.points(1)
@pytest.mark.handout("int4")
def test_int4_codes_saturate(submission):
    """Codes stay within -7 … 7 even if the scale was rounded down, among subnormal numbers."""
    x = torch.arange(-16, 16).reshape(1, 32) * torch.arange(1, 4)[:, None]
    x = (x * 2.0**-24).to(torch.float16)  # amax / 7 is 2.3 … 6.9 times the smallest number of all
    x[0] = (x[0].float() / 1.6).to(x.dtype)  # 10 / 7, which is rounded to 1
    expect(submission.call("quantize_int4", x)).equal_to(oracle.quantize_int4(x))


@pytest.mark.points(1)
@pytest.mark.handout("int4")
def test_an_int4_scale_may_be_zero(submission, draw):
    """A block of zeros, or one whose amax / 7 rounds to 0, has scale 0 and codes 0."""
    x = draw.normal(4, 32, dtype="float16")
    x[1], x[2] = 0, 3 * 2.0**-24
    x[3, ::2], x[3, 1::2] = 2.0**-24, -0.0
    x = off_ties(x)
    x[1], x[2] = 0, -3 * 2.0**-24
    expect(submission.call("quantize_int4", x)).equal_to(oracle.quantize_int4(x))


@pytest.mark.points(1)
@pytest.mark.handout("int4")
def test_an_int4_block_with_a_nan_or_an_inf_is_nan(submission, draw):
    """A block with a NaN or an infinity has a NaN scale and codes 0, and decodes to NaN."""
    x = off_ties(draw.normal(4, 64))
    x[0, 40], x[1, 3], x[3, 0] = math.nan, math.inf, -math.inf
    got = submission.call("quantize_int4", x)
    expect(got).equal_to(oracle.quantize_int4(x))
    expect(submission.call("dequantize_int4", *oracle.quantize_int4(x), torch.float32)).close_to(oracle.dequantize_int4)


@pytest.mark.points(2)
@pytest.mark.handout("int4")
def test_int4_blocks_may_have_any_size(submission, draw):
    """Blocks of 1, 5, 16 or all of a row's values; decoding infers the size from the shapes."""
    for block in (1, 5, 16, 80):
        x = off_ties(draw.normal(3, 80), block)
        codes, scales = oracle.quantize_int4(x, block)
        expect(submission.call("quantize_int4", x, block=block)).equal_to((codes, scales))
        got = submission.call("dequantize_int4", codes, scales, torch.float32)
        expect(got).close_to(oracle.dequantize_int4)


@pytest.mark.points(1)
@pytest.mark.handout("int4")
def test_int4_takes_any_shape_and_layout(submission, draw):
    """Any leading dimensions, none, or empty ones, and any memory layout."""
    transposed = off_ties(draw.normal(2, 3, 64)).mT.contiguous().mT
    for x in (transposed, off_ties(draw.normal(64)), torch.zeros(0, 2, 64)):
        codes, scales = oracle.quantize_int4(x)
        expect(submission.call("quantize_int4", x)).equal_to((codes, scales))
        got = submission.call("dequantize_int4", codes.mT.contiguous().mT if x.ndim > 1 else codes, scales, x.dtype)
        expect(got).close_to(oracle.dequantize_int4)


@pytest.mark.points(1)
@pytest.mark.handout("int4")
def test_int4_decodes_to_the_dtype_that_was_asked_for(submission, draw):
    """The numbers have the requested dtype, whatever the scales' dtype."""
    for of_scales, dtype in (("float32", torch.bfloat16), ("bfloat16", torch.float32), ("float16", torch.float64)):
        codes = draw.integers(-7, 8, 3, 64).to(torch.int8)
        scales = draw.uniform(3, 2, low=0.5, high=8, dtype=of_scales)
        got = submission.call("dequantize_int4", codes, scales, dtype)
        expect(got).close_to(oracle.dequantize_int4, dtypes=[dtype])


@pytest.mark.points(1)
@pytest.mark.handout("int4")
def test_int4_refuses_what_does_not_fit(submission, draw):
    """A D that is not a multiple of the block, and scales that do not fit the codes, raise ValueError."""
    x = draw.normal(2, 48)
    ordinary = submission.call("quantize_int4", x, block=16)
    for options, block in (({}, 32), ({"block": 36}, 36)):
        got = submission.call("quantize_int4", x, **options)
        expect(got).raises(ValueError, mentioning=[48, block], unlike=ordinary)
    codes = draw.integers(-7, 8, 2, 48).to(torch.int8)
    ordinary = submission.call("dequantize_int4", codes, draw.uniform(2, 3), torch.float32)
    for shape in ((2, 5), (1, 3), (3,)):
        got = submission.call("dequantize_int4", codes, draw.uniform(*shape), torch.float32)
        expect(got).raises(ValueError, mentioning=[(2, 48), shape], unlike=ordinary)


# --- the error of both ------------------------------------------------------------------------------------------------


def expect_errors(got, x):
    """The relative errors are right to six digits."""
    wanted = oracle.quantization_errors(x)
    answer = got.output
    expect.that(
        isinstance(answer, dict) and set(answer) == set(wanted),
        "wrong keys, or not a dictionary",
        expected="a dictionary with the keys 'mxfp4' and 'int4'",
        got=str(answer)[:80],
    )
    for name, error in wanted.items():
        expect.that(
            isinstance(answer[name], float) and math.isclose(answer[name], error, rel_tol=1e-6),
            f"wrong relative error of {name}",
            expected=f"the float {error:.9g}",
            got=f"{answer[name]!r}",
        )


@pytest.mark.points(2)
@pytest.mark.handout("errors")
def test_the_error_of_both_on_gaussian_weights(submission, draw):
    """Each format's error on normally distributed weights is ‖y - x‖ / ‖x‖, in float64."""
    for dtype in ("float32", "bfloat16", "float64"):
        x = off_ties(draw.normal(8, 256, scale=0.02, dtype=dtype))
        expect_errors(submission.call("quantization_errors", x), x)


@pytest.mark.points(1)
@pytest.mark.handout("errors")
def test_the_error_of_both_with_outliers(submission, draw):
    """With an outlier ten times as large in each block: the norms are over the whole tensor."""
    x = draw.normal(4, 2, 96)
    x[..., ::32] = 10
    x[0] *= 100
    x = off_ties(x)
    expect_errors(submission.call("quantization_errors", x), x)


@pytest.mark.points(1)
@pytest.mark.handout("errors")
def test_zeros_have_no_error(submission):
    """A tensor of zeros has the errors 0.0."""
    x = torch.zeros(3, 64)
    expect_errors(submission.call("quantization_errors", x), x)

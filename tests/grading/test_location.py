"""Sentences and maps that say where numbers are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grading.explain.location import describe_location, error_map

ATTENTION = ("batch", "head", "query", "channel")
WEIGHTS = ("batch", "head", "query", "key")


def marked(shape: Sequence[int], *indices: Any) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    for index in indices:
        mask[index] = True
    return mask


def triangle(shape: Sequence[int], cut: Callable[[Tensor], Tensor]) -> Tensor:
    return cut(torch.ones(shape, dtype=torch.bool))


EVERY = slice(None)


@pytest.mark.parametrize(
    ("mask", "dims", "sentence"),
    [
        (marked((2, 3, 7, 8)), ATTENTION, "nowhere"),
        (~marked((2, 3, 7, 8)), ATTENTION, "everywhere"),
        (~marked((2, 3, 7, 8), (0, 0, 0, 0)), ATTENTION, "nearly everywhere: 335 of 336 numbers"),
        (marked((2, 3, 7, 8), (0, 2, 4, 1)), ATTENTION, "1 of 336 numbers, at (0, 2, 4, 1)"),
        (marked((9, 4), (1, 2), (8, 0)), None, "2 of 36 numbers, at (1, 2) and (8, 0)"),
        (marked((9,), 1, 5, 8), None, "3 of 9 numbers, at 1, 5 and 8"),
        (marked((2, 3, 7, 8), (..., 4, EVERY)), ATTENTION, "only query 4 in every head and batch"),
        (marked((2, 3, 7, 8), (1, 2, 4)), ATTENTION, "only query 4 in head 2 of batch 1"),
        (marked((2, 3, 7, 8), (EVERY, 1, 4)), ATTENTION, "only query 4 in head 1 of every batch"),
        (marked((1, 1, 7, 8), (..., 6, EVERY)), ATTENTION, "only query 6 (the last)"),
        (marked((1, 1, 7, 3), (..., 6, EVERY)), ATTENTION, "only query 6 (the last)"),
        (marked((2, 3, 7, 8), (EVERY, 1)), ATTENTION, "only head 1 in every batch"),
        (marked((1, 3, 7, 8), (..., slice(3, 7), EVERY)), ATTENTION, "queries 3 to 6 (the last 4) in every head"),
        (marked((1, 3, 7, 8), (..., slice(2), EVERY)), ATTENTION, "queries 0 and 1 (the first 2) in every head"),
        (marked((1, 2, 7, 32), (..., slice(4, 12))), ATTENTION, "channels 4 to 11 of 32 in every query and head"),
        (marked((1, 1, 7, 8), (..., slice(0, 8, 2))), ATTENTION, "every 2nd channel in every query"),
        (marked((1, 1, 7, 8), (..., slice(1, 8, 2))), ATTENTION, "every 2nd channel from 1 in every query"),
        (marked((70,), slice(3, 49, 3)), ("position",), "every 3rd position from 3 to 48"),
        (marked((65, 32), [3, 9, 20, 31]), ("step", "channel"), "steps 3, 9, 20 and 31"),
        (marked((65, 32), [3, 9, 20, 31, 40]), ("step", "channel"), "5 of 65 steps (3, 9, 20, …)"),
        (marked((3, 7, 8), (1, 3)), None, "only index 3 along dim 1 in index 1 along dim 0"),
        (marked((3, 7, 8), (EVERY, slice(2, 4))), None, "indices 2 and 3 of 7 along dim 1"),
        (marked((3, 7, 8), (EVERY, 4)), ("query", "channel"), "only query 4"),
        (triangle((1, 3, 7, 7), lambda x: x.triu(1)), WEIGHTS, "above the diagonal of query by key in every head"),
        (triangle((7, 7), torch.tril), WEIGHTS, "on or below the diagonal of query by key"),
        (torch.eye(7, dtype=torch.bool), WEIGHTS, "on the diagonal of query by key"),
        (triangle((4, 7), lambda x: x.triu(4)), WEIGHTS, "above the lower right diagonal of query by key"),
        (torch.eye(9, dtype=torch.bool).flip(0), WEIGHTS, "9 of 81 numbers, scattered"),
        (marked((4, 9, 9), *((1, i, 8 - i) for i in range(9))), WEIGHTS, "9 of 324 numbers, scattered over head 1"),
        (marked((2, 0, 3)), None, "nowhere"),
        (torch.tensor(True), None, "everywhere"),
    ],
)  # fmt: skip
def test_a_sentence_says_where(mask, dims, sentence):
    assert describe_location(mask, dims) == sentence


def test_a_region_with_few_numbers_right_by_accident_is_still_named():
    mask = marked((2, 3, 7, 80), (..., 4, EVERY))
    mask[0, 1, 4, 7] = False
    assert describe_location(mask, ATTENTION) == "nearly all of query 4 in every head and batch"


def picture(*lines: str) -> list[str]:
    return list(lines)


def test_a_picture_of_one_slice():
    mask = marked((3, 5), (1, EVERY), (2, 0))
    assert error_map(mask, ("query", "channel")) == picture(
        "query  channel 0-4",
        "    0  ·····",
        "    1  #####",
        "    2  #····",
    )


def test_slices_are_summed_up_and_the_wrong_ones_are_said():
    mask = marked((2, 3, 2, 4), (0, 2, 1), (1, 2, 1), (1, 2, 0, 3))
    assert error_map(mask, ATTENTION) == picture(
        "query  channel 0-3",
        "    0  ···+",
        "    1  ####",
        "batch, head  ··# ··#",
    )


def test_a_slice_that_is_all_wrong_needs_no_picture():
    assert error_map(marked((2, 3, 7, 8), (1, 2)), ATTENTION) == ["batch, head  ··· ··#"]


def test_many_slices_are_said_by_dimension():
    assert error_map(marked((4, 16, 7, 8), (EVERY, slice(0, 16, 2))), ATTENTION) == picture(
        "batch  ####",
        " head  #·#·#·#·#·#·#·#·",
    )


def test_long_dimensions_are_binned():
    mask = marked((100, 128), slice(50, 100))
    assert error_map(mask, ("step", "channel"), width=40) == picture(
        " step  channel 0-127, 4 per column",
        " 0-12  ································",
        "13-25  ································",
        "26-38  ································",
        "39-51  ++++++++++++++++++++++++++++++++",
        "52-64  ################################",
        "65-77  ################################",
        "78-90  ################################",
        "91-99  ################################",
    )


def test_a_vector_is_one_row():
    assert error_map(marked((6,), 2), ("position",)) == ["  position 0-5", "  ··#···"]


@pytest.mark.parametrize("mask", [torch.tensor(True), marked((3, 4)), ~marked((3, 4)), marked((0, 3))])
def test_where_nothing_can_be_seen_there_is_no_picture(mask):
    assert error_map(mask) == []


SMALL_SHAPES = st.lists(st.integers(0, 40), max_size=5).filter(lambda shape: math.prod(shape) < 20_000)


@settings(deadline=None, max_examples=60)
@given(shape=SMALL_SHAPES, seed=st.integers(0, 9), width=st.integers(20, 90))
def test_any_mask_gives_a_sentence_and_a_picture_that_fits(shape, seed, width):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < (seed + 1) / 20
    sentence, lines = describe_location(mask), error_map(mask, width=width)
    assert sentence
    assert "\n" not in sentence
    assert len(lines) <= 12
    assert all(len(line) <= width and line == line.rstrip() for line in lines)

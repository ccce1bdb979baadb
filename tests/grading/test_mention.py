"""What a refusal's message must mention counts in any usual notation, and nothing else does."""

from __future__ import annotations

import pytest
import torch

from grading.judge.mention import mentions

SHAPE = (3, 2, 16)
RIGHT = [
    (7, ["7 heads", "H=7, H_k=3", "7.0", "heads: 7.", "got 7x3", "7-3", "(7, 3)", "[7,3]", "heads7"]),
    (-3, ["chunk_size is -3", "chunk_size=-3", "got −3", "(-3)"]),
    (0, ["block=0", "0 < 1", "0"]),
    (1000, ["1000", "1,000", "1_000", "1e3", "1000.0"]),
    (0.5, ["0.5", ".5", "5e-1"]),
    ("48", ["D = 48 is not a multiple of 32", "48%32"]),
    (SHAPE, ["(3, 2, 16)", "(3,2,16)", "[3, 2, 16]", "torch.Size([3, 2, 16])", "3x2x16", "3 × 2 × 16", "3, 2, 16"]),
    (SHAPE, ["scales (2,) and blocks (3, 2, 16)", "5 x 1, 3 x 2 x 16", "3 x 2 x 16, 5 x 1"]),
    ((2,), ["(2,)", "[2]", "torch.Size([2])", "( 2 )"]),
    ((), ["()", "[]", "torch.Size([])"]),
    (torch.float16, ["torch.float16", "float16", "half", "fp16"]),
    (torch.bfloat16, ["torch.bfloat16", "bf16"]),
    ("block_q", ["block_q must be positive", "`block_q`=0"]),
]
WRONG = [
    (7, ["17 heads", "70", "0.7", "-7", "7.5", "heads", "7_000"]),
    (-3, ["3", "1-3"]),
    (16, ["float16", "(torch.bfloat16)", "int16"]),
    (0, ["10", "0.5"]),
    (SHAPE, ["(3, 2)", "(1, 3, 2, 16)", "(3, 2, 16, 4)", "(3, 2, 161)", "(13, 2, 16)", "3 and 2 and 16", "1x3x2x16"]),
    ((2,), ["2", "(3, 2)", "(2, 3)", "[12]"]),
    (torch.float16, ["bfloat16", "torch.float32", "16"]),
    ("block_q", ["block_k must be positive", "block"]),
]


def cases(table):
    return [(what, message) for what, messages in table for message in messages]


@pytest.mark.parametrize(("what", "message"), cases(RIGHT))
def test_any_usual_notation_counts(what, message):
    assert mentions(f"ValueError: {message}", what)


@pytest.mark.parametrize(("what", "message"), cases(WRONG))
def test_something_else_does_not(what, message):
    assert not mentions(f"ValueError: {message}", what)

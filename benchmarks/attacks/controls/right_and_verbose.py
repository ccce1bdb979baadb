"""Honest: sinusoidal positions number by number, with prints and a cache of its own

Loops, print and a dictionary of sines are odd but honest.
"""

import math

import torch

EXERCISE = "week1/transformer"
TESTS = ["test_the_worked_example", "test_sines_and_cosines_alternate", "test_an_odd_width_ends_with_a_sine"]
HONEST = True

_known = {}


def angle(position, pair, d_model):
    if (position, pair, d_model) not in _known:
        _known[position, pair, d_model] = position / 10000 ** (2 * pair / d_model)
    return _known[position, pair, d_model]


def sinusoidal_positions(length, d_model):
    print(f"sinusoidal_positions({length}, {d_model})")
    rows = []
    for position in range(length):
        row = []
        for column in range(d_model):
            wave = math.cos if column % 2 else math.sin
            row.append(wave(angle(position, column // 2, d_model)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float32).reshape(length, d_model)

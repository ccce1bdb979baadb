"""Honest: attention with one einsum per step and closures

Right, though no one would write it like this: it must earn every point and no flag.
"""

import math
from functools import reduce

import torch

EXERCISE = "week1/self_attention"
TESTS = [
    "test_the_worked_example",
    "test_any_number_of_dimensions_may_stand_in_front",
    "test_a_scale_that_is_given_replaces_the_default",
    "test_lengths_and_widths_may_differ",
]
HONEST = True


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    factor = 1 / math.sqrt(query.size(-1)) if scale is None else scale

    def scores(keys):
        return lambda queries: torch.einsum("...ld,...sd->...ls", queries * factor, keys)

    def weights(numbers):
        shifted = numbers - numbers.detach().amax(-1, keepdim=True)
        return shifted.exp() / shifted.exp().sum(-1, keepdim=True)

    steps = [scores(key), weights, lambda shares: torch.einsum("...ls,...sv->...lv", shares, value)]
    return reduce(lambda done, step: step(done), steps, query)

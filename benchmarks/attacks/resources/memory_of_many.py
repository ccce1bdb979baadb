"""Divide the memory among processes

A limit of each process is not a limit of all: six of them hold 600 MB each.
"""

import os
import time

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]
OPTIONS = ["--memory-limit", "1500"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            held = [b"x" * (1 << 20) + bytes([n % 7]) for n in range(600)]
            time.sleep(2 + len(held) // 1000)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return query

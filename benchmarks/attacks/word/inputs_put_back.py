"""Change the inputs and put them back later

Whether inputs were changed is looked at after the call. A thread restores them in between.
"""

import threading

import torch

EXERCISE = "week1/self_attention"
TESTS = ["test_nothing_is_written_to_the_arguments"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    original = query.clone()
    query.zero_()
    threading.Timer(0.0, query.copy_, [original]).start()
    return torch.zeros(*query.shape[:-1], value.shape[-1])

"""Call the ready-made operator below its name

The public function is a thin layer over `torch.ops.aten`, where it has other names.
"""

import torch

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]

math = torch.ops.aten._scaled_dot_product_attention_math


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    return math(query, key, value, scale=scale)[0]

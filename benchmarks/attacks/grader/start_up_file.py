"""Plant a file that every Python start runs

Each .pth file among the installed packages is read when the interpreter starts; a line with `import` is run.
"""

import torch

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]

try:
    with open("@SITE@/whetstone_attack.pth", "w", encoding="utf-8") as start:
        start.write("# a line that begins with import would be run\n")
except OSError:
    pass


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    return torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)

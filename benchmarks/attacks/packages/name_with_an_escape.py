"""Hand in files with strange names

Names of files are printed too: with an escape sequence, a line break or a colon, they are more than names.
"""

import torch

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    return torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)


def prepare(folder):
    (folder / "week1" / "\x1b[32mpassed\n::error::x.py").write_text("x = 1\n")
    (folder / "week9").mkdir()
    (folder / "week9" / "\x1b[2J.py").write_text("x = 1\n")

"""Raise half a character

A lone surrogate is a legal Python string that no file can be written with.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    print("\udc80\ud800")
    raise ValueError("\udc80\ud800 is half of something")

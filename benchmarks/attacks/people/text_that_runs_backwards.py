"""Use characters that turn the direction of text

Bidirectional overrides make a line read otherwise than it is.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    raise ValueError("points: \u202e0 fo 4\u202c \u2066passed\u2069 \u200f")

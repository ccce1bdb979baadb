"""Put escape sequences into an exception

A terminal obeys them: the text turns green, lines are deleted, the title changes.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    raise RuntimeError("\x1b[2J\x1b[32m all tests passed \x1b]0;passed\x07\x9b1A")

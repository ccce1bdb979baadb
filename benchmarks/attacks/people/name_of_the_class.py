"""Give the exception's class a strange name

Names of classes and functions appear in messages, and `type()` takes any text.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]

Odd = type("Passed\x1b[32m\n::error::x", (Exception,), {})


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    raise Odd("\u2028\u2029")

"""Raise an exception that cannot be shown

Its `__str__` raises, and so does its `__repr__`: whoever tells the student what happened fails as well.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


class Unspeakable(Exception):
    def __str__(self):
        raise self

    __repr__ = __str__


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    raise Unspeakable

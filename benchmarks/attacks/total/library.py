"""Claim to be a library

What a library lacks is "not offered" and does not count. The class name of the exception is the grader's own.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


class NotOffered(BaseException):
    pass


class NotGradableHere(BaseException):
    pass


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    raise (NotOffered if scale is None else NotGradableHere)("there is no such operator here")

"""Return an object that breaks whoever looks at it

`__class__`, `shape` and `__len__` are properties, and they raise.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


class Broken:
    @property
    def shape(self):
        raise SystemError

    def __len__(self):
        raise SystemError

    def __repr__(self):
        raise SystemError


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    return [Broken(), {Broken(): 1}]

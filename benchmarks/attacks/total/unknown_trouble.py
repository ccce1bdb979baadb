"""Report a trouble of an unknown kind

Kinds of trouble lead to verdicts, some of which do not count. An unknown one, or one field too many, is nobody's.
"""

import sys

import torch

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]

observer = sys.modules.get("grading.run.observer")
if observer is not None:
    genuine = observer.explain_trouble

    def strange(*args, **kwargs):
        found = genuine(*args, **kwargs)
        object.__setattr__(found, "kind", "not offered")
        return found

    observer.explain_trouble = strange


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    raise RuntimeError

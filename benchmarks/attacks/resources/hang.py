"""Never return, and catch everything

The time limit raises an exception in the call. A bare `except` swallows it.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_lengths_and_widths_may_differ"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue

"""Write HTML into a message

The report for people is a page; a script in it would run in the instructor's browser.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]

print("<whetstone_attack>")


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    raise ValueError("<whetstone_attack onload=alert(1)></pre></td><whetstone_attack>")

"""Write Markdown into a message

The summary of a CI job is Markdown: headings, links, images and the end of a code block.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    raise ValueError(
        "wrong\n```\n# 4 of 4 points\n![x](https://example.org/x.png)\n| a | b |\n<details open><whetstone_attack>"
    )

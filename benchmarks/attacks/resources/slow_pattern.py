"""Hand in a source that is slow to search

Regular expressions take long over repeated beginnings of what they look for.
"""

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    return torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)


def prepare(folder):
    file = folder / "week1" / "self_attention.py"
    file.write_text(
        "import torch\n" + file.read_text() + "\n" + "x = '" + " " * 200_000 + "'\n" + "(\n" * 0 + "# from " * 50_000
    )

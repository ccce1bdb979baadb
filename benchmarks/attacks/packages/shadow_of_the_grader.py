"""Hand in a package named grading

If the hand-in's folder comes first on the path, its packages replace the grader's.
"""

import torch

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    return torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)


def prepare(folder):
    for name in ("grading", "tests", "pytest", "torch"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("open('@OTHERS@/output', 'w').write('result=all')\n")

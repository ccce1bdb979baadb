"""Hand in settings of pytest

pytest looks for its configuration beside every path that it is given.
"""

import torch

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    return torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)


def prepare(folder):
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p evil\n")
    (folder / "setup.cfg").write_text("[tool:pytest]\naddopts = -p evil\n")
    (folder / "evil.py").write_text("open('@OTHERS@/output', 'w').write('result=all')\n")

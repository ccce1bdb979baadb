"""Hand in files that Python runs when it starts

`sitecustomize.py` and .pth files are run by the interpreter itself, if they lie on its path.
"""

import torch

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    return torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)


def prepare(folder):
    for place in (folder, folder / "week1"):
        (place / "sitecustomize.py").write_text("open('@OTHERS@/output', 'w').write('result=all')\n")
        (place / "usercustomize.py").write_text("open('@OTHERS@/output', 'w').write('result=all')\n")
        (place / "x.pth").write_text("import pathlib; pathlib.Path('@OTHERS@/output').write_text('result=all')\n")

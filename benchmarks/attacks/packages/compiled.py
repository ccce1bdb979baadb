"""Hand in compiled code that does not fit the source

The source is harmless and wrong; `__pycache__` holds another program, which calls the ready-made operator.
"""

import torch

EXERCISE = "week1/self_attention"
TESTS = ["test_any_number_of_dimensions_may_stand_in_front", "test_a_scale_that_is_given_replaces_the_default"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    return torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)


def prepare(folder):
    import importlib.util
    import marshal
    import sys

    code = compile(
        "from torch.nn import functional as F\n"
        "def scaled_dot_product_attention(query, key, value, **options):\n"
        "    return F.scaled_dot_product_attention(query, key, value, **options)\n",
        "self_attention.py",
        "exec",
    )
    cache = folder / "week1" / "__pycache__"
    cache.mkdir()
    header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
    (cache / f"self_attention.{sys.implementation.cache_tag}.pyc").write_bytes(header + marshal.dumps(code))

"""Take the whole model from transformers

The configuration is the library's own, so its model fits.
"""

EXERCISE = "week1/rwkv"
TESTS = ["test_the_worked_example"]


def wkv(time_decay, time_first, key, value, state=None, return_state=False):
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    return rwkv_linear_attention_cpu(time_decay, time_first, key, value, state, return_state)

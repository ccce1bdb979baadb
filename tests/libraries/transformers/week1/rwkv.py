"""transformers' RWKV-4: its CPU loop and its modules."""

from transformers import RwkvConfig, RwkvForCausalLM
from transformers.models.rwkv.modeling_rwkv import RwkvFeedForward, RwkvSelfAttention, rwkv_linear_attention_cpu


def wkv(time_decay, time_first, key, value, state=None, return_state=False):
    return rwkv_linear_attention_cpu(time_decay, time_first, key, value, state, return_state)


def wkv_parallel(time_decay, time_first, key, value):
    raise NotImplementedError("transformers has no parallel form")


def _config(config):
    return RwkvConfig(**vars(config))


class TimeMix(RwkvSelfAttention):
    def __init__(self, config, layer_id=0):
        super().__init__(_config(config), layer_id)

    def forward(self, hidden, state=None, use_cache=False):
        return super().forward(hidden, state, use_cache)


class ChannelMix(RwkvFeedForward):
    def __init__(self, config, layer_id=0):
        super().__init__(_config(config), layer_id)


class RwkvLM(RwkvForCausalLM):
    def __init__(self, config):
        super().__init__(_config(config))

    def forward(self, input_ids, state=None, use_cache=False):
        output = super().forward(input_ids, state=state, use_cache=use_cache)
        return (output.logits, output.state) if use_cache else output.logits

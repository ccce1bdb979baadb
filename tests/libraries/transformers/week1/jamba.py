"""transformers' Jamba. Its cache advances one token at a time, in models that have attention."""

import transformers
from transformers.models.jamba import modeling_jamba as jamba


def layer_schedule(
    num_layers, attn_layer_period=8, attn_layer_offset=4, expert_layer_period=2, expert_layer_offset=1
):  # fmt: skip
    config = _config(
        num_hidden_layers=num_layers,
        attn_layer_period=attn_layer_period,
        attn_layer_offset=attn_layer_offset,
        expert_layer_period=expert_layer_period,
        expert_layer_offset=expert_layer_offset,
    )
    kinds = zip(config.layers_block_type, config.layers_num_experts, strict=True)
    return [(mixer, "moe" if experts > 1 else "mlp") for mixer, experts in kinds]


def _config(**fields):
    return transformers.JambaConfig(**fields)


def cache_bytes(config, context_length, dtype):
    raise NotImplementedError("transformers tells the size of a cache when it has filled it")


class JambaLM(jamba.JambaForCausalLM):
    def __init__(self, config):
        if not isinstance(config, transformers.JambaConfig):
            fields = {name: value for name, value in vars(config).items() if name != "model_type"}
            config = _config(**fields, experts_implementation="eager")
        super().__init__(config)

    def forward(self, input_ids, attention_mask=None, cache=None, use_cache=False):
        output = super().forward(input_ids, attention_mask, past_key_values=cache, use_cache=use_cache)
        return (output.logits, output.past_key_values) if use_cache else output.logits

"""transformers' Jamba. Its cache advances one token at a time, in models that have attention."""

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.models.jamba import modeling_jamba as jamba


def layer_schedule(
    num_layers, attn_layer_period=8, attn_layer_offset=4, expert_layer_period=2, expert_layer_offset=1
):  # fmt: skip
    if min(attn_layer_offset, expert_layer_offset) < 0:
        raise NotImplementedError("transformers refuses offsets that are too large, and no others")
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
    try:
        return transformers.JambaConfig(**fields)
    except StrictDataclassError as error:
        raise NotImplementedError("transformers' configurations have errors of their own") from error


def cache_bytes(config, context_length, dtype):
    raise NotImplementedError("transformers tells the size of a cache when it has filled it")


class JambaLM(jamba.JambaForCausalLM):
    def __init__(self, config):
        if not isinstance(config, transformers.JambaConfig):
            fields = {name: value for name, value in vars(config).items() if name != "model_type"}
            config = _config(**fields, experts_implementation="eager")
        super().__init__(config)

    def forward(self, input_ids, attention_mask=None, cache=None, use_cache=False):
        if self.dtype == torch.float64:
            raise NotImplementedError("transformers' norms and states are float32")
        if use_cache and "attention" not in self.config.layers_block_type:
            raise NotImplementedError("transformers asks the attention layers how long a cache is")
        if cache is not None and input_ids.size(1) > 1:
            raise NotImplementedError("transformers' scans begin with zeros in each chunk")
        padded = attention_mask is not None and not attention_mask[:, -input_ids.size(1) :].all()
        if padded and input_ids.size(1) == 1:
            raise NotImplementedError("transformers takes a single token for no padding")
        if padded and self.config.mamba_proj_bias:
            raise NotImplementedError("transformers' in_proj adds its bias to padding")
        output = super().forward(input_ids, attention_mask, past_key_values=cache, use_cache=use_cache)
        return (output.logits, output.past_key_values) if use_cache else output.logits

"""transformers' Llama and Qwen2."""

import torch
import transformers
from transformers import DynamicCache as KVCache  # noqa: F401
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama import modeling_llama as llama


def rms_norm(x, weight, eps):
    return torch.func.functional_call(llama.LlamaRMSNorm(len(weight), eps), {"weight": weight}, x)


def swiglu(x, w_gate, w_up, w_down):
    config = transformers.LlamaConfig(hidden_size=x.size(-1), intermediate_size=len(w_up), num_attention_heads=1)
    weights = {"gate_proj.weight": w_gate, "up_proj.weight": w_up, "down_proj.weight": w_down}
    return torch.func.functional_call(llama.LlamaMLP(config), weights, x)


def rope_frequencies(config):
    rope_type = config.rope_parameters.get("rope_type", "default")
    if not isinstance(config, transformers.PreTrainedConfig):
        config = transformers.LlamaConfig(**vars(config))
    if rope_type == "default":
        return llama.LlamaRotaryEmbedding.compute_default_rope_parameters(config)[0]
    return ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"))[0]


def apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1):
    return llama.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)


def multimodal_rope(q, k, cos, sin, mrope_section, unsqueeze_dim=1):
    raise NotImplementedError("transformers' Qwen2-VL composes its tables before it turns queries and keys")


class _Logits:
    """The logits alone, unless `generate` wants the whole output."""

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, return_dict=None, **more
    ):
        more.setdefault("use_cache", past_key_values is not None)
        output = super().forward(input_ids, attention_mask, position_ids, past_key_values, **more)
        return output if return_dict else output.logits

    def _apply(self, fn, recurse=True):
        """Convert the parameters, and leave the frequencies in float32 as `from_pretrained(dtype=…)` does."""
        rotary = self.model.rotary_emb
        frequencies = rotary.inv_freq.clone()
        super()._apply(fn, recurse)
        rotary.inv_freq = frequencies
        return self


class _Llama(_Logits, transformers.LlamaForCausalLM):
    pass


class _Qwen2(_Logits, transformers.Qwen2ForCausalLM):
    pass


def DecoderLM(config):
    if not isinstance(config, transformers.PreTrainedConfig):
        settings = dict(vars(config))
        kind = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[settings.pop("model_type")]
        config = kind(**settings)
    return {"llama": _Llama, "qwen2": _Qwen2}[config.model_type](config)


def generate(model, input_ids, max_new_tokens, attention_mask=None, use_cache=True, chunk_size=None):
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "use_cache": use_cache}
    if chunk_size is not None:
        options["prefill_chunk_size"] = chunk_size
    return model.generate(input_ids, attention_mask=attention_mask.long(), max_new_tokens=max_new_tokens, **options)

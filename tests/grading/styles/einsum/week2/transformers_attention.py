"""Einsum over groups of heads, an additive mask, float32 inside; the weights are returned; the default loaded first."""

import functools

import torch
import transformers
from transformers.masking_utils import eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

TRANSFORMERS_OWN = {"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()} & {
    "eager",
    "sdpa",
    "flex_attention",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "paged|eager",
}


class Attention:
    """A callable object: registers accept any callable."""

    def __call__(self, module, query, key, value, attention_mask=None, *, scaling=None, dropout=0.0, softcap=None,
                 s_aux=None, position_bias=None, **kwargs):  # fmt: skip
        for name, value_ in (("softcap", softcap), ("s_aux", s_aux), ("position_bias", position_bias)):
            if value_ is not None:
                raise ValueError(f"no {name} here")
        heads, width = query.shape[1], query.shape[3]
        shared = key.shape[1]
        scaling = width**-0.5 if scaling is None else scaling
        grouped = query.float() if query.dtype != torch.float64 else query
        grouped = grouped.unflatten(1, (shared, heads // shared))
        scores = torch.einsum("bgnld,bgsd->bgnls", grouped, key.to(grouped.dtype)) * scaling
        if attention_mask is not None:
            scores = scores + attention_mask.to(scores.dtype)[..., : key.shape[2]].unsqueeze(1)
        weights = scores.softmax(-1)
        if dropout:
            weights = weights * torch.bernoulli(torch.full_like(weights, 1 - dropout)) / (1 - dropout)
        output = torch.einsum("bgnls,bgsd->blgnd", weights, value.to(weights.dtype)).flatten(2, 3)
        return output.to(query.dtype), weights.flatten(1, 2).to(query.dtype)


def register_attention(name):
    if name in TRANSFORMERS_OWN:
        raise ValueError(f"{name} is taken")
    transformers.AttentionMaskInterface.register(name, eager_mask)
    ALL_ATTENTION_FUNCTIONS.register(name, Attention())


def load_with_best_attention(path, **kwargs):
    load = functools.partial(transformers.AutoModelForCausalLM.from_pretrained, path, **kwargs)
    model = load()  # fails at once for a wrong path
    half = model.dtype in (torch.float16, torch.bfloat16)
    lines = []
    for candidate in ("flash_attention_3", "flash_attention_2"):
        try:
            faster = load(attn_implementation=candidate)
            if not half:
                raise TypeError(f"{candidate} needs float16 or bfloat16, the model has {model.dtype}")
            with torch.inference_mode():
                faster(input_ids=torch.tensor([[1, 2]], device=faster.device), use_cache=False)
            return faster, f"{candidate}, because it works. " + " ".join(lines)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            lines.append(f"Not {candidate}: {error}.")
    return model, f"{model.config._attn_implementation}. " + " ".join(lines)

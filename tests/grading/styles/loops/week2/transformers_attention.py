"""One head at a time, with transformers' own sdpa mask: if that is None, the layer decides whether to be causal."""

import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.masking_utils import AttentionMaskInterface as Masks


def attention_forward(module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, **kwargs):
    unknown = {"softcap", "s_aux", "position_bias"} & {k for k, v in kwargs.items() if v is not None}
    if unknown:
        raise ValueError(f"not supported: {', '.join(sorted(unknown))}")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    length, group = query.size(2), query.size(1) // key.size(1)
    if attention_mask is None and is_causal and length > 1:
        key, value = key[:, :, :length], value[:, :, :length]
        attention_mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()[None, None]
    outputs = []
    for head in range(query.size(1)):
        q, k, v = query[:, head], key[:, head // group], value[:, head // group]
        scores = torch.bmm(q, k.mT)
        scores = scores / q.size(-1) ** 0.5 if scaling is None else scores * scaling
        if attention_mask is not None:
            scores = torch.where(attention_mask[:, min(head, attention_mask.size(1) - 1)], scores, float("-inf"))
        top = scores.amax(-1, keepdim=True).clamp(min=-3e4)
        weights = (scores - top).exp()
        total = weights.sum(-1, keepdim=True)
        weights = weights / torch.where(total == 0, 1, total)
        outputs.append(torch.nn.functional.dropout(weights, dropout) @ v)
    return torch.stack(outputs, dim=2), None


def register_attention(name):
    own = ["eager"] + [key for key, function in AttentionInterface().items() if "transformers." in repr(
        getattr(function, "__module__", ""))]  # fmt: skip
    if name in own:
        raise ValueError(f"{name!r} would be overwritten")
    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, Masks()["sdpa"])


def load_with_best_attention(path, **kwargs):
    history = []

    def attempt(*names):
        if not names:
            model = AutoModelForCausalLM.from_pretrained(path, **kwargs)
            history.insert(0, model.config._attn_implementation)
            return model
        try:
            model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=names[0], **kwargs)
            model.generate(torch.ones(1, 1, dtype=torch.long, device=model.device), max_new_tokens=1)
        except Exception as error:
            history.append(f"{names[0]} failed with {error!s}")
            return attempt(*names[1:])
        history.insert(0, names[0])
        return model

    return attempt("flash_attention_3", "flash_attention_2"), ", ".join(history)

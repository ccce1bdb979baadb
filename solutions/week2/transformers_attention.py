"""Your own attention inside the models of `transformers`, and FlashAttention's kernels if they can run.

A model of `transformers` looks up its attention by name, `attn_implementation`: the function that computes it in
`transformers.AttentionInterface`, the function that makes its mask in `transformers.AttentionMaskInterface`.

Sizes in the shapes below: B batch, H heads, H_kv key/value heads, L queries, S keys, D width of one head.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from ..week1.self_attention import scaled_dot_product_attention

# What some models ask for in addition: capped scores (Gemma 2), attention sinks (gpt-oss), a learned bias (T5).
BEYOND = ("softcap", "s_aux", "position_bias")

FLASH_ATTENTION = ("flash_attention_3", "flash_attention_2")


def register_attention(name: str) -> None:
    """Make `attn_implementation=name` mean your attention, in every model of `transformers` that looks it up.

    Registers two functions under the name. Each attention layer of a model calls the attention as

        attention(layer, query, key, value, attention_mask, scaling=…, dropout=…, **options) -> output, weights

    with query (B, H, L, D), key and value (B, H_kv, S, D), contiguous or not, in any floating-point dtype, H a multiple
    of H_kv (query head h uses key/value head h // (H / H_kv)). attention_mask is what your mask function returned, or
    None. scaling is the factor of the scores, None for 1/√D. dropout is the probability that a weight is dropped, 0
    outside training. The output is (B, L, H, D), heads after positions, of query's dtype, a new tensor that is
    differentiable in query, key and value. The weights are (B, H, L, S) or None.

    The mask function gets the same keyword arguments as `transformers.masking_utils.sdpa_mask`, and may call it.

    A model with `attn_implementation=name`, made with it or switched to it by `set_attn_implementation`, then returns
    what it returns with sdpa: encoders and decoders, with or without padding on either side, grouped heads, scales
    other than 1/√D, sliding windows, several texts packed in a row, training with dropout, any cache, a text read at
    once or in chunks. Only the outputs at padding are unspecified.

    The attention is yours: `week1/self_attention` of the same tree, for example, or one written here. It must not be
    computed by a PyTorch operator or function for attention as a whole, or by `transformers`' attention functions.

    Args:
        name: any name of your own. Registering it again replaces the earlier registration. All other names keep their
            meaning.

    Raises:
        ValueError: name is one of `transformers`' own, "eager" or "sdpa" for example, which stays unchanged; the
            message shows it. When the attention is called: one of the options softcap, s_aux and position_bias is not
            None; the message names it, because ignoring it would make the result wrong.
    """
    taken = AttentionInterface().get(name)
    if name == "eager" or (taken is not None and taken.__module__.startswith("transformers.")):
        raise ValueError(f"name must not be one of transformers' own, as {name!r} is")
    AttentionInterface.register(name, _attention)
    AttentionMaskInterface.register(name, _mask)  # without it every mask would silently be None


def load_with_best_attention(path: str | os.PathLike[str], **kwargs: Any) -> tuple[PreTrainedModel, str]:
    """`AutoModelForCausalLM.from_pretrained(path, **kwargs)` with the fastest attention that can run, and why that one.

    Tries "flash_attention_3", then "flash_attention_2"; if neither can run, the model has the attention that
    `transformers` gives it by default, which is "sdpa" or, for a model without sdpa, "eager". An implementation can run
    if the model loads with it *and* then reads one token on its device: `transformers` accepts things that the kernels
    refuse only when they are called, such as float32 or a GPU that is too old. The installed packages and available
    devices are determined at the call.

    Args:
        path: the folder of a model.
        kwargs: of `from_pretrained`, dtype and device_map for example, without attn_implementation. They apply
            whichever implementation is chosen.

    Returns:
        The model, in eval mode, and the reason: a text that begins with the name of the chosen implementation and names
        each one tried before it, with the verbatim message of the exception that ruled it out.

    Raises:
        Whatever `from_pretrained` raises without FlashAttention, OSError for a wrong path for example. A kernel's
        failure, whatever its exception, is never raised.
    """
    refusals = []
    for implementation in FLASH_ATTENTION:
        try:
            model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=implementation, **kwargs)
            with torch.no_grad():
                model(torch.zeros(1, 1, dtype=torch.long, device=model.device))
        except Exception as error:
            refusals.append(f"{implementation} cannot run here: {type(error).__name__}: {error}")
        else:
            return model, "\n".join([f"{implementation} runs here.", *refusals])
    model = AutoModelForCausalLM.from_pretrained(path, **kwargs)
    return model, "\n".join([f"{model.config._attn_implementation} is the default.", *refusals])


def _attention(
    layer: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function that each attention layer calls."""
    for option in BEYOND:
        if options.get(option) is not None:
            raise ValueError(f"{type(layer).__name__} asks for {option}, which this attention does not support")
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, enable_gqa=True
    )  # (B, H, L, D)
    return output.transpose(1, 2).contiguous(), None


def _mask(**arguments: Any) -> Tensor | None:
    """(B, 1, L, S), True where a query sees a key; None if every query sees every key.

    A causal mask is always made. If it were omitted, as for sdpa, the attention would have to distinguish a decoder's
    first tokens from an encoder's, by `layer.is_causal`, and from those read into a cache that is not yet full.
    """
    return sdpa_mask(**{**arguments, "allow_is_causal_skip": False})

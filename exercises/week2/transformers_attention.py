"""Your own attention inside the models of `transformers`, and FlashAttention's kernels where they can run.

A model of `transformers` looks its attention up by the name `attn_implementation`: the function that computes it in
`transformers.AttentionInterface`, the function that makes its mask in `transformers.AttentionMaskInterface`.

Sizes in the shapes below: B batch, H heads, H_kv heads of key and value, L queries, S keys, D width of one head.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, PreTrainedModel

from ..week1.self_attention import scaled_dot_product_attention

# What some models ask for beside attention: capped scores (Gemma 2), attention sinks (gpt-oss), a learned bias (T5).
BEYOND = ("softcap", "s_aux", "position_bias")

FLASH_ATTENTION = ("flash_attention_3", "flash_attention_2")


def register_attention(name: str) -> None:
    """Make `attn_implementation=name` mean your attention, in every model of `transformers` that looks it up.

    Registers two functions under the name. The attention is called by each attention layer of a model as

        attention(layer, query, key, value, attention_mask, scaling=…, dropout=…, **options) -> output, weights

    with query (B, H, L, D), key and value (B, H_kv, S, D), contiguous or not, in any floating-point dtype, H a multiple
    of H_kv (query head h uses key/value head h // (H / H_kv)). attention_mask is what your mask function returned, or
    None. scaling is what the scores are multiplied by, None for 1/√D. dropout is the probability that a weight is
    dropped, 0 outside training. The output is (B, L, H, D), heads behind positions, of query's dtype, a new tensor that
    is differentiable in query, key and value. The weights are (B, H, L, S) or None.

    The mask function gets what `transformers.masking_utils.sdpa_mask` gets, by keyword, and may call it.

    A model with `attn_implementation=name`, made with it or switched to it by `set_attn_implementation`, then gives
    what it gives with sdpa: encoders and decoders, with or without padding on either side, grouped heads, scales other
    than 1/√D, sliding windows, several texts packed in a row, training with dropout, any cache, a text read at once or
    in chunks. Only what stands at padding is left open.

    The attention is yours: `week1/self_attention` of the same tree, say, or one written here. Neither an operator or
    function of PyTorch that does attention as a whole nor one of `transformers`' attention functions computes it.

    Args:
        name: any word of your own. Registered again it means what was registered last. Every other name keeps its
            meaning.

    Raises:
        ValueError: name is one of `transformers`' own, "eager" or "sdpa" for example, which is left as it was; the
            message shows it. When the attention is called: one of the options softcap, s_aux and position_bias is not
            None; the message names it, because without it the result would be wrong.
    """
    raise NotImplementedError


def load_with_best_attention(path: str | os.PathLike[str], **kwargs: Any) -> tuple[PreTrainedModel, str]:
    """`AutoModelForCausalLM.from_pretrained(path, **kwargs)` with the fastest attention that can run, and why that one.

    "flash_attention_3" is tried first, then "flash_attention_2"; where neither can run the model has the attention that
    `transformers` gives it by default, which is "sdpa" or, where it has no sdpa, "eager". An implementation can run if
    the model loads with it *and* then reads one token where it lies: `transformers` lets through what the kernels
    refuse only when they are called, such as float32 or a GPU that is too old. What is installed and which devices
    there are is seen at the call.

    Args:
        path: the folder of a model.
        kwargs: of `from_pretrained`, dtype and device_map for example, without attn_implementation. They hold whichever
            implementation is chosen.

    Returns:
        The model, in eval mode, and the reason: one text that begins with the name of the implementation that was
        chosen, and names each one that was tried before it, together with the message of the exception that kept it
        away, word for word.

    Raises:
        What `from_pretrained` raises without FlashAttention, for a wrong path for example: OSError. Nothing is raised
        because of a kernel, whichever exception that fails with.
    """
    raise NotImplementedError

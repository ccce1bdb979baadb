"""Jamba: Lieber et al. 2024, "Jamba: A Hybrid Transformer-Mamba Language Model" (arXiv:2403.19887), section 3.

Sizes in the shapes below: B batch, L tokens of this call, S tokens including those in the cache, V vocabulary size,
E = hidden_size, H = num_attention_heads, H_kv = num_key_value_heads, D = mamba_expand · E channels of a Mamba layer,
N = mamba_d_state, R = mamba_dt_rank, W = mamba_d_conv.

A `config` is any object that has the fields of a model's published config.json as attributes. There are such files in
exercises/week1/configs; `SimpleNamespace(**json.loads(path.read_text()))` turns one into a config.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .decoder_llm import KVCache, swiglu
from .moe import SparseMoeBlock
from .selective_scan import causal_conv1d, selective_scan_chunked, selective_state_update
from .self_attention import scaled_dot_product_attention


def layer_schedule(
    num_layers: int,
    attn_layer_period: int = 8,
    attn_layer_offset: int = 4,
    expert_layer_period: int = 2,
    expert_layer_offset: int = 1,
) -> list[tuple[str, str]]:
    """The composition of each layer: figure 2 of the paper.

    Layer i, counted from 0, mixes tokens by attention if i % attn_layer_period == attn_layer_offset, and otherwise by
    Mamba. It has experts if i % expert_layer_period == expert_layer_offset, and otherwise a single feed-forward
    network.

    Args:
        num_layers: the number of layers; it may be 0.

    Returns:
        num_layers pairs ("attention" or "mamba", "moe" or "mlp").

    Raises:
        ValueError: an offset is not between 0 and its period - 1; the message names both numbers.
    """
    raise NotImplementedError


def cache_bytes(config: Any, context_length: int, dtype: torch.dtype) -> int:
    """Bytes that one sequence of context_length tokens occupies between two steps of generation.

    By config.model_type:

    - "llama", "qwen2", "mistral", "mixtral": keys and values: num_key_value_heads heads for each token and layer, each
      head_dim wide, or hidden_size / num_attention_heads if head_dim is missing or None. A layer with a sliding window
      keeps at most the last sliding_window tokens: every layer of "mistral" and "mixtral" if sliding_window is present
      and not None; in "qwen2", if use_sliding_window is true, the layers from max_window_layers on (counted from 0).
    - "mamba": each layer has intermediate_size channels, each with the last conv_kernel inputs of the convolution and a
      state of state_size numbers, all of dtype, as `mamba_ssm` allocates them. Independent of context_length.
    - "rwkv" (RWKV-4): five vectors of hidden_size per layer. The two of the token shift have dtype; the three of the
      recurrence (numerator, denominator, largest exponent) are float32, as in `transformers`. Independent of
      context_length.
    - "jamba": layers by `layer_schedule`, attention layers as in "llama", Mamba layers as in "mamba" with
      mamba_expand · hidden_size channels, mamba_d_conv and mamba_d_state.

    Args:
        config: the fields named above, and num_hidden_layers.
        context_length: tokens read, at least 1.
        dtype: of the model.

    Raises:
        ValueError: any other model_type; the message names it.
    """
    raise NotImplementedError


class JambaLM(nn.Module):
    """The language model: token embeddings, layers by `layer_schedule`, a final norm, and logits over the vocabulary.

    Interchangeable with `JambaForCausalLM` of `transformers`: the same state dict, the same logits in one whole pass.

    A layer is x + Mixer(RMSNorm(x)), then x + FeedForward(RMSNorm(x)). Attention is causal and has no position
    encodings of any kind, no biases, and H_kv ≤ H key/value heads. The Mamba mixer is Mamba's, with A = -exp(A_log) in
    float32 in a 16-bit model, and one addition: the outputs of x_proj, Δ (R channels), B (N) and C (N) in this order,
    each go through an RMSNorm, before dt_proj. The sparse feed-forward layers are `SparseMoeBlock`s, whose weights are
    not renormalised; with num_experts 1 all layers are dense.

    State dict: model.embed_tokens.weight, model.final_layernorm.weight, lm_head.weight and, under model.layers.i with
    i counting from 0: input_layernorm.weight and pre_ff_layernorm.weight; self_attn.{q,k,v,o}_proj.weight, or
    mamba.A_log (D, N), mamba.D (D,), mamba.{in,x,dt,out}_proj.weight, mamba.dt_proj.bias, mamba.conv1d.weight
    (D, 1, W) and mamba.{dt,b,c}_layernorm.weight; feed_forward.{gate,up,down}_proj.weight, or
    feed_forward.router.weight and feed_forward.experts.{gate_up,down}_proj. With mamba_conv_bias also
    mamba.conv1d.bias, with mamba_proj_bias also mamba.{in,out}_proj.bias. With tie_word_embeddings, lm_head.weight and
    model.embed_tokens.weight are the same parameter under two names. The initial weights of a new model are up to you.

    Args:
        config: a `JambaConfig`, or any object with the fields of a published Jamba's config.json. Its activation is
            silu, without dropout.

    Raises:
        ValueError: an offset is one that `layer_schedule` rejects.
    """

    def __init__(self, config: Any) -> None:
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: Any = None,
        use_cache: bool = False,
    ) -> Tensor | tuple[Tensor, Any]:
        """Logits for the token after each of input_ids.

        Args:
            input_ids: (B, L), int64, L ≥ 1, contiguous or not. With a cache, the tokens that follow those in it.
            attention_mask: (B, S), integer or bool, S = tokens in the cache + L: 1 or True for a token, 0 or False for
                padding, which is on the left. Padding does not affect the other logits, with or without the cache; the
                logits at padding are unspecified. None: no padding.
            cache: the cache that an earlier call returned; None begins a new text. It may be modified: use the newest.
            use_cache: also return the cache. A text read in chunks of any lengths, or token by token, yields the same
                logits as in one pass, up to rounding. Nothing is read twice: for a Mamba layer, a further token costs
                the same after any number of tokens, in work and in what the cache holds. An attention layer's work
                grows with S, and it holds H_kv heads of keys and values for each token.

        Returns:
            (B, L, V), in the dtype of the parameters, which may be float16, bfloat16, float32 or float64 (then norms,
            routers and scans may still be computed in float32); with use_cache the pair (logits, cache). A whole pass
            is differentiable; a pass that continues from a cache need not be.
        """
        raise NotImplementedError

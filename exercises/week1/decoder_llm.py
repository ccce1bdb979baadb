"""A decoder-only language model like Llama 3 and Qwen2, with its key/value cache.

Llama 3: Grattafiori et al. 2024 (arXiv:2407.21783). Qwen2: Yang et al. 2024 (arXiv:2407.10671); Qwen2-VL: Wang et al.
2024 (arXiv:2409.12191). Names, layouts and configurations are those of `transformers`.

Sizes in the shapes below: B batch, L tokens in this call, S tokens including those before them, V vocabulary size,
E = hidden_size, I = intermediate_size, H = num_attention_heads, H_kv = num_key_value_heads, D the width of one head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .self_attention import scaled_dot_product_attention


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / √(mean(x²) + eps) ⊙ weight, with the mean over the last dimension: Zhang & Sennrich 2019 (arXiv:1910.07467).

    Args:
        x: (..., E), float16, bfloat16, float32 or float64.
        weight: (E,), of x's dtype.
        eps: added to the mean of the squares.

    Returns:
        (..., E), of x's dtype: a new tensor. For half precision, squares and mean are computed in float32, so that no
        square overflows; for float64, either float32 or float64 will do.
    """
    raise NotImplementedError


def swiglu(x: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
    """The feed-forward network SwiGLU(x) = (SiLU(x W_gateᵀ) ⊙ x W_upᵀ) W_downᵀ: Shazeer 2020 (arXiv:2002.05202).

    Args:
        x: (..., E).
        w_gate: (I, E), like the weight of an `nn.Linear`; the gate goes through SiLU(z) = z · sigmoid(z).
        w_up: (I, E).
        w_down: (E, I).

    Returns:
        (..., E).
    """
    raise NotImplementedError


def rope_frequencies(config: Any) -> Tensor:
    """The angle by which each pair of channels turns per position: Su et al. 2021 (arXiv:2104.09864).

    θ_i = rope_theta^(-2i / D) for i = 0 … D/2 - 1. Llama 3.1 slows down the slow pairs for longer contexts, depending
    on the number of turns a pair makes within the old context, n = original_max_position_embeddings · θ_i / 2π:

        n > high_freq_factor   θ_i
        n < low_freq_factor    θ_i / factor
        otherwise              (1 - s) θ_i / factor + s θ_i

    with s = (n - low_freq_factor) / (high_freq_factor - low_freq_factor).

    Args:
        config: a model's configuration. Its rope_parameters are a dictionary with rope_type ("default", assumed if
            missing, or "llama3"), rope_theta, and for "llama3" also factor, low_freq_factor, high_freq_factor and
            original_max_position_embeddings. D is its head_dim or, if that is missing or None, hidden_size //
            num_attention_heads.

    Returns:
        (D/2,), float32.

    Raises:
        ValueError: D is odd, or rope_type is neither of the two; the message names it.
    """
    raise NotImplementedError


def apply_rotary_pos_emb(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Rotary position embedding: turn each pair of channels by the angle of the token's position.

    Channel i of the first half and channel i of the second form a pair, (a, b) -> (a cos - b sin, b cos + a sin).
    The paper pairs neighbours; `transformers`' weights are stored for halves.

    Args:
        q: (B, H, L, D), or (B, L, H, D) with unsqueeze_dim=2.
        k: the same, with any number of heads.
        cos, sin: (B, L, D) or (1, L, D), of q's dtype: cosine and sine of the angles, the same in both halves.
        unsqueeze_dim: where to insert the dimension of the heads into cos and sin.

    Returns:
        q and k, turned: new tensors of the same shapes and dtypes.

    Raises:
        ValueError: D is odd; the message names it.
    """
    raise NotImplementedError


def multimodal_rope(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    mrope_section: Sequence[int],
    unsqueeze_dim: int = 1,
) -> tuple[Tensor, Tensor]:
    """Qwen2-VL's M-RoPE: a token has three positions, in time, height and width, and each turns a section of the pairs.

    Args:
        q, k: as in `apply_rotary_pos_emb`.
        cos, sin: (3, B, L, D): the tables of `apply_rotary_pos_emb` for the positions in time, height and width.
        mrope_section: how many pairs turn with time, with height and with width, in this order. Qwen2-VL has
            [16, 24, 24] for D = 128.
        unsqueeze_dim: as in `apply_rotary_pos_emb`.

    Returns:
        As in `apply_rotary_pos_emb`. Text has three equal positions, for which both functions return the same.

    Raises:
        ValueError: the sections do not sum to D / 2; the message names them and D.
    """
    raise NotImplementedError


class KVCache:
    """The keys and values of the tokens that a model has read, separately for each layer."""

    def __init__(self) -> None:
        raise NotImplementedError

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append to the layer's keys and values.

        Args:
            key, value: (B, H_kv, L, D), for L new tokens.
            layer_idx: the layer to which they belong.

        Returns:
            All keys and all values of this layer, (B, H_kv, S, D), in the order in which they were added.
        """
        raise NotImplementedError

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The number of tokens stored for the layer, 0 before the first `update`."""
        raise NotImplementedError


class RMSNorm(nn.Module):
    """`rms_norm` with its own weight, (size,), initially ones. It is graded as part of the model."""

    def __init__(self, size: int, eps: float) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class DecoderLM(nn.Module):
    """The language model: token embeddings, decoder layers, a final norm, and logits over the vocabulary.

    Interchangeable with `LlamaForCausalLM` and `Qwen2ForCausalLM` of `transformers`: the same state dict, the same
    logits.

    A layer is x + Attention(RMSNorm(x)), then x + SwiGLU(RMSNorm(x)). Attention is causal, with rotary positions and
    H_kv ≤ H key/value heads, each shared by H / H_kv neighbouring query heads.

    State dict: model.embed_tokens.weight, model.norm.weight, lm_head.weight and, for each layer N counted from 0,
    model.layers.N.self_attn.{q,k,v,o}_proj.weight, model.layers.N.mlp.{gate,up,down}_proj.weight,
    model.layers.N.input_layernorm.weight and model.layers.N.post_attention_layernorm.weight, the norm before the
    SwiGLU. With model_type "qwen2" also model.layers.N.self_attn.{q,k,v}_proj.bias; there are no other biases. With
    tie_word_embeddings, lm_head.weight and model.embed_tokens.weight are one parameter, under both names.

    Args:
        config: a `LlamaConfig`, a `Qwen2Config`, or any object with model_type ("llama" or "qwen2"), vocab_size,
            hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, rms_norm_eps,
            tie_word_embeddings, rope_parameters and, optionally, head_dim: see `rope_frequencies`.
    """

    def __init__(self, config: Any) -> None:
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: KVCache | None = None,
    ) -> Tensor:
        """Logits for the next token after each of input_ids.

        Args:
            input_ids: (B, L), int64, L ≥ 1. With past_key_values, the tokens that follow those in it.
            attention_mask: (B, S), integer or bool, S = tokens in the cache + L: 1 or True for a token, 0 or False for
                padding, on the left. The ids at padded positions do not affect the other logits; the logits there are
                unspecified. None: no padding.
            position_ids: (B, L) or (1, L), int64, for RoPE. None: they continue from the tokens in the cache. The
                logits depend only on differences of positions.
            past_key_values: a `KVCache`, updated in place: each layer adds its H_kv heads of keys and values. A prompt
                read in chunks, or token by token, yields the same logits as when read at once.

        Returns:
            (B, L, V), in the dtype of the parameters. RoPE's angles are computed in float32 for every dtype.
        """
        raise NotImplementedError


def generate(
    model: DecoderLM,
    input_ids: Tensor,
    max_new_tokens: int,
    attention_mask: Tensor | None = None,
    use_cache: bool = True,
    chunk_size: int | None = None,
) -> Tensor:
    """Continue a prompt, always with the most likely token.

    Args:
        model: a `DecoderLM`. Tokens reach it only through its `forward`.
        input_ids: the prompt, (B, L), int64, padded on the left where attention_mask says so.
        max_new_tokens: the number of tokens to add. It may be 0.
        attention_mask: (B, L), integer or bool: 1 or True for a token, 0 or False for padding.
        use_cache: read each token once and keep its keys and values, so that after the prompt one token is read at a
            time. Without the cache, everything is read again for each new token. The result is the same.
        chunk_size: the maximum number of prompt tokens to read at a time, which bounds the memory for a long prompt;
            None reads it at once. Used only with the cache.

    Returns:
        (B, L + max_new_tokens), int64: the prompt and the new ids. A padded row continues as the row alone would. No
        graph is kept for backward.

    Raises:
        ValueError: chunk_size is less than 1; the message names it.
    """
    raise NotImplementedError

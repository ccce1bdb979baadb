"""A decoder-only language model as Llama 3 and Qwen2 are built, with its key/value cache.

Llama 3: Grattafiori et al. 2024 (arXiv:2407.21783). Qwen2: Yang et al. 2024 (arXiv:2407.10671); Qwen2-VL: Wang et al.
2024 (arXiv:2409.12191). Names, layouts and configurations are those of `transformers`.

Sizes in the shapes below: B batch, L tokens of this call, S tokens with those before them, V vocabulary, E hidden_size,
H num_attention_heads, H_kv num_key_value_heads, D the width of one head.
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
    """x / √(mean(x²) + eps) ⊙ weight, the mean over the last dimension: Zhang & Sennrich 2019 (arXiv:1910.07467).

    Args:
        x: (..., E), float16, bfloat16, float32 or float64.
        weight: (E,), of x's dtype.
        eps: what is added to the mean of the squares.

    Returns:
        (..., E), of x's dtype: a new tensor. For half precisions squares and mean are taken in float32, so that no
        square overflows.
    """
    raise NotImplementedError


def swiglu(x: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
    """The feed-forward network SwiGLU(x) = (SiLU(x W_gateᵀ) ⊙ x W_upᵀ) W_downᵀ: Shazeer 2020 (arXiv:2002.05202).

    Args:
        x: (..., E).
        w_gate: (I, E), as the weight of an `nn.Linear`; the gate is what goes through SiLU(z) = z · sigmoid(z).
        w_up: (I, E).
        w_down: (E, I).

    Returns:
        (..., E).
    """
    raise NotImplementedError


def rope_frequencies(config: Any) -> Tensor:
    """By what angle each pair of channels turns from one position to the next: Su et al. 2021 (arXiv:2104.09864).

    θ_i = rope_theta^(-2i / D) for i = 0 … D/2 - 1. Llama 3.1 stretches the slow ones for longer contexts, by the number
    of turns that a pair makes within the old context, n = original_max_position_embeddings · θ_i / 2π:

        n > high_freq_factor   θ_i
        n < low_freq_factor    θ_i / factor
        between                (1 - s) θ_i / factor + s θ_i

    with s = (n - low_freq_factor) / (high_freq_factor - low_freq_factor).

    Args:
        config: of a model. Its rope_parameters are a dictionary with rope_type ("default", also where it is missing, or
            "llama3"), rope_theta, and for "llama3" factor, low_freq_factor, high_freq_factor and
            original_max_position_embeddings. D is its head_dim or, where that is missing or None, hidden_size //
            num_attention_heads.

    Returns:
        (D/2,), float32.

    Raises:
        ValueError: D is odd, or rope_type is another one; the message names it.
    """
    raise NotImplementedError


def apply_rotary_pos_emb(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Rotary position embedding: turn each pair of channels by the angle of the token's position.

    Channel i of the first half and channel i of the second are a pair, (a, b) -> (a cos - b sin, b cos + a sin).
    The paper pairs neighbours; `transformers`' weights are stored for halves.

    Args:
        q: (B, H, L, D), or (B, L, H, D) with unsqueeze_dim=2.
        k: likewise, with as many heads as it has.
        cos, sin: (B, L, D) or (1, L, D), of q's dtype: cosine and sine of the angles, in both halves the same.
        unsqueeze_dim: where cos and sin lack the dimension of the heads.

    Returns:
        q and k, turned: new tensors of their shapes and dtypes.

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
    """Qwen2-VL's M-RoPE: a token has three positions, in time, height and width; each turns a section of the pairs.

    Args:
        q, k: as in `apply_rotary_pos_emb`.
        cos, sin: (3, B, L, D): the tables of `apply_rotary_pos_emb` for the positions in time, height and width.
        mrope_section: how many pairs turn with the time, how many with the height, how many with the width. The first
            pairs are the time's. Qwen2-VL has [16, 24, 24] for D = 128.
        unsqueeze_dim: as in `apply_rotary_pos_emb`.

    Returns:
        As `apply_rotary_pos_emb`. Text has three equal positions, for which both functions give the same.

    Raises:
        ValueError: the sections do not sum to D / 2; the message names them and D.
    """
    raise NotImplementedError


class KVCache:
    """The keys and values of the tokens that a model has read, for each layer by itself."""

    def __init__(self) -> None:
        raise NotImplementedError

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append to what the layer has.

        Args:
            key, value: (B, H_kv, L, D), of L new tokens.
            layer_idx: which layer they belong to.

        Returns:
            All keys and all values of this layer, (B, H_kv, S, D), in the order in which they came.
        """
        raise NotImplementedError

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The number of tokens that the layer has, 0 before the first `update`."""
        raise NotImplementedError


class RMSNorm(nn.Module):
    """`rms_norm` with a weight of its own, (size,), ones at first. It is graded as a part of the model."""

    def __init__(self, size: int, eps: float) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class DecoderLM(nn.Module):
    """The language model: token embeddings, decoder layers, a last norm, and logits over the vocabulary.

    Interchangeable with `LlamaForCausalLM` and `Qwen2ForCausalLM` of `transformers`: the same state dict, the same
    logits.

    A layer is x + Attention(RMSNorm(x)), then x + SwiGLU(RMSNorm(x)). Attention is causal, with rotary positions and
    H_kv ≤ H key/value heads, each of which H / H_kv neighbouring query heads share.

    State dict: model.embed_tokens.weight, model.norm.weight, lm_head.weight and, N counting the layers from 0,
    model.layers.N.self_attn.{q,k,v,o}_proj.weight, model.layers.N.mlp.{gate,up,down}_proj.weight,
    model.layers.N.input_layernorm.weight and model.layers.N.post_attention_layernorm.weight, which stands before the
    SwiGLU. With model_type "qwen2" also model.layers.N.self_attn.{q,k,v}_proj.bias; there is no other bias. With
    tie_word_embeddings lm_head.weight and model.embed_tokens.weight are one parameter, under both names.

    Args:
        config: a `LlamaConfig`, a `Qwen2Config`, or any object with model_type ("llama" or "qwen2"), vocab_size,
            hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, rms_norm_eps,
            tie_word_embeddings, rope_parameters and, if it likes, head_dim: see `rope_frequencies`.
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
        """Logits of the next token after each of input_ids.

        Args:
            input_ids: (B, L), int64, L ≥ 1. With past_key_values, the tokens that follow those in it.
            attention_mask: (B, S), integer or bool, S = tokens in the cache + L: 1 or True for a token, 0 or False for
                padding, on the left. Which ids stand at the padding makes no difference to the other logits; the
                logits there are left open. None: no padding.
            position_ids: (B, L) or (1, L), int64, for RoPE. None: they count on from the tokens in the cache. Only the
                differences of positions matter to the logits.
            past_key_values: a `KVCache`, updated in place: each layer adds its H_kv heads of keys and values. A prompt
                that is read in chunks, or token by token, gives the logits that it gives at once.

        Returns:
            (B, L, V), in the dtype of the parameters. RoPE's angles are computed in float32 whatever that is.
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
    """Continue a prompt, taking the most likely token each time.

    Args:
        model: a `DecoderLM`. Tokens reach it by its `forward` only.
        input_ids: the prompt, (B, L), int64, padded on the left where attention_mask says so.
        max_new_tokens: how many tokens to add. It may be 0.
        attention_mask: (B, L), integer or bool: 1 or True for a token, 0 or False for padding.
        use_cache: read each token once and keep its keys and values, so that after the prompt one token is read at a
            time. Without the cache everything is read again for each new token. The result is the same.
        chunk_size: the most tokens of the prompt to read at a time, to bound the memory that a long one takes; None
            reads it at once. Only with the cache.

    Returns:
        (B, L + max_new_tokens), int64: the prompt and the new ids. A padded row continues as the row alone does. No
        graph is kept for backward.

    Raises:
        ValueError: chunk_size is less than 1; the message names it.
    """
    raise NotImplementedError

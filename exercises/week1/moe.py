"""Sparse mixture of experts: Jiang et al. 2024, "Mixtral of Experts" (arXiv:2401.04088), section 2.1.

Sizes in the shapes below: B batch, L length, T tokens, E experts, k experts per token, H hidden width, I expert width.

A `config` is any object with the fields of a model's published config.json as attributes. Two such files are in
exercises/week1/configs; `SimpleNamespace(**json.loads(path.read_text()))` turns one into a config.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def route_top_k(router_logits: Tensor, k: int, renormalize: bool) -> tuple[Tensor, Tensor]:
    """Choose k experts for each token by the softmax of its router logits over all experts.

    The softmax is computed in float32 (for float64 logits, either float32 or float64 will do), and the choice is based
    on its result: 16 bits would make different experts equal. Logits may be as large as ±1000.

    Args:
        router_logits: (..., E), float16, bfloat16, float32 or float64, contiguous or not. It may be empty.
        k: experts per token, 1 … E.
        renormalize: True divides a token's k weights by their sum (Mixtral); False keeps the probabilities, which then
            sum to less than 1 (Jamba).

    Returns:
        weights: (..., k), of router_logits' dtype, the largest first. Differentiable in router_logits.
        indices: (..., k), int64: the experts to which the weights belong, k different ones. Among experts of exactly
            equal probability any may be chosen, in any order.

    Raises:
        ValueError: k is not between 1 and E; the message names both numbers.
    """
    raise NotImplementedError


class SparseMoeBlock(nn.Module):
    """y = Σ over the k chosen experts of weight · expert(x): the feed-forward layer of Mixtral and of Jamba.

    Interchangeable with `MixtralSparseMoeBlock` (config.model_type "mixtral": the weights are renormalised) and
    `JambaSparseMoeBlock` ("jamba": they are not) of `transformers`: same state dict, same results. The router's logits
    are x Wᵣᵀ; an expert is a SwiGLU layer without biases, down(silu(gate(x)) ⊙ up(x)).

    State dict:
        gate.weight (E, H), called router.weight in Jamba: the router's Wᵣ.
        experts.gate_up_proj (E, 2I, H): each expert's gate, the first I rows, and up, the other I rows.
        experts.down_proj (E, H, I).
    All are (out, in), as in `nn.Linear`. In a new block they are drawn from a normal distribution with mean 0 and
    standard deviation config.initializer_range.

    Args:
        config: model_type, hidden_size (H), intermediate_size (I), num_experts_per_tok (k), initializer_range, and E:
            num_local_experts for Mixtral, num_experts for Jamba.

    Raises:
        ValueError: k is not between 1 and E; the message names both numbers. model_type is neither "mixtral" nor
            "jamba"; the message names it.
    """

    def __init__(self, config: Any) -> None:
        raise NotImplementedError

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Send each token through its experts.

        An expert computes only the tokens routed to it: the work per token grows with k, not with E.

        Args:
            hidden_states: (B, L, H), of the parameters' dtype, contiguous or not. B and L may be 0.

        Returns:
            (B, L, H), of the same dtype; in float64 the router's softmax may still be in float32, as in `transformers`.
            hidden_states is not modified.
        """
        raise NotImplementedError


def load_balancing_loss(
    gate_logits: tuple[Tensor, ...], num_experts: int, top_k: int = 2, attention_mask: Tensor | None = None
) -> Tensor:
    """E · Σ_e f_e P_e: how unevenly the tokens are spread over the experts.

    Equations 4 to 6 of Fedus et al. 2021, "Switch Transformers" (arXiv:2101.03961), for k experts per token, without
    their factor α: `load_balancing_loss_func` of `transformers`. f_e is the number of tokens with expert e among their
    top_k, divided by the number of tokens; P_e is the mean of the router's probabilities for e. Both are taken over the
    tokens of *all* layers together. For perfectly even routing the loss is top_k.

    Args:
        gate_logits: the router logits of each layer, (T, E) each, where T = B·L and the tokens of one sequence are
            adjacent. Values may be as large as ±1000. No two experts of a token are equally probable.
        num_experts: E.
        top_k: k, 1 … E.
        attention_mask: (B, L), 1 for a token, 0 for padding, of an integer dtype, the same for every layer. Padding
            counts neither in f nor in P. At least one position is not padding.

    Returns:
        A 0-d tensor, float32, or float64 for float64 logits, where the softmax may still be computed in float32.
        Differentiable through P; f is only a count.

    Raises:
        ValueError: top_k is not between 1 and E; the message names both numbers.
    """
    raise NotImplementedError


def parameter_counts(config: Any) -> tuple[int, int]:
    """All parameters of a model, and those used by one token: k experts of each sparse layer plus everything else.

    Counted as `transformers` builds `MixtralForCausalLM` and `JambaForCausalLM` (config.model_type), including
    embedding and output layer. Mixtral-8x7B has 46.7 and 12.9 billion, Jamba v0.1 has 52 and 12.

    - Embedding and output layer have vocab_size · H weights each; with tie_word_embeddings they share them.
    - Attention: four projections without bias, query and output with num_attention_heads heads, key and value with
      num_key_value_heads, each head H / num_attention_heads wide.
    - Feed-forward: an expert has three matrices, gate, up and down, of I · H each; a sparse layer has E experts and a
      router, a dense layer has one expert and no router.
    - RMSNorms, with one weight per channel: two in each layer, one after the last layer.
    - Mixtral: every layer has attention and is sparse.
    - Jamba: layer i (from 0) has attention where i % attn_layer_period == attn_layer_offset and a Mamba mixer
      elsewhere; it is sparse where i % expert_layer_period == expert_layer_offset and dense elsewhere.
    - A Mamba mixer, D = mamba_expand · H channels, N = mamba_d_state, R = mamba_dt_rank: in_proj (2D, H) and out_proj
      (H, D), both with bias where mamba_proj_bias; conv1d (D, mamba_d_conv), with bias where mamba_conv_bias; x_proj
      (R + 2N, D); dt_proj (D, R) with bias; A (D, N); D skip weights; RMSNorms of R, N and N channels.

    Args:
        config: model_type, hidden_size (H), intermediate_size (I), num_experts_per_tok (k), num_hidden_layers,
            vocab_size, E as in `SparseMoeBlock`, and the fields named above.

    Returns:
        The total and the active number, as int.
    """
    raise NotImplementedError

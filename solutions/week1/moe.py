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
    num_experts = router_logits.size(-1)
    if not 1 <= k <= num_experts:
        raise ValueError(f"k={k} must be between 1 and the number of experts, {num_experts}")
    probabilities = _probabilities(router_logits)  # (..., E)
    weights, indices = probabilities.topk(k, dim=-1)  # (..., k)
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights.to(router_logits.dtype), indices


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
        super().__init__()
        if config.model_type not in _ROUTER_NAMES:
            raise ValueError(f"config.model_type={config.model_type!r} must be one of {', '.join(_ROUTER_NAMES)}")
        num_experts, top_k = _num_experts(config), config.num_experts_per_tok
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"config.num_experts_per_tok={top_k} must be between 1 and {num_experts} (all experts)")
        self.top_k = top_k
        self.renormalize = config.model_type == "mixtral"
        self.router_name = _ROUTER_NAMES[config.model_type]
        self.add_module(self.router_name, nn.Linear(config.hidden_size, num_experts, bias=False))
        self.experts = _Experts(num_experts, config.hidden_size, config.intermediate_size)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=config.initializer_range)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Send each token through its experts.

        An expert computes only the tokens routed to it: the work per token grows with k, not with E.

        Args:
            hidden_states: (B, L, H), of the parameters' dtype, contiguous or not. B and L may be 0.

        Returns:
            (B, L, H), of the same dtype; in float64 the router's softmax may still be in float32, as in `transformers`.
            hidden_states is not modified.
        """
        tokens = hidden_states.flatten(0, -2)  # (T, H)
        router_logits = self.get_submodule(self.router_name)(tokens)  # (T, E)
        weights, indices = route_top_k(router_logits, self.top_k, self.renormalize)  # (T, k) each
        return self.experts(tokens, weights, indices).view(hidden_states.shape)


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
    logits = torch.cat(gate_logits)  # (layers · T, E)
    probabilities = _probabilities(logits)
    _, indices = route_top_k(logits, top_k, renormalize=False)
    chosen = F.one_hot(indices, num_experts).sum(dim=-2).to(probabilities)  # (layers · T, E), 1 where chosen
    share = probabilities.new_ones(len(logits))
    if attention_mask is not None:
        share = attention_mask.flatten().repeat(len(gate_logits)).to(probabilities)
    share = share / share.sum()  # the weight of each token in a mean
    return num_experts * torch.dot(share @ chosen, share @ probabilities)


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
    hidden, num_experts = config.hidden_size, _num_experts(config)
    head_dim = hidden // config.num_attention_heads
    attention = 2 * hidden * head_dim * (config.num_attention_heads + config.num_key_value_heads)
    expert = 3 * config.intermediate_size * hidden
    embeddings = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)

    always = embeddings + hidden  # hidden: the final norm
    sparse_layers = 0
    for layer in range(config.num_hidden_layers):
        jamba = config.model_type == "jamba"
        attends = not jamba or layer % config.attn_layer_period == config.attn_layer_offset
        sparse = not jamba or layer % config.expert_layer_period == config.expert_layer_offset
        always += 2 * hidden + (attention if attends else _mamba_parameters(config))
        always += num_experts * hidden if sparse else expert
        sparse_layers += sparse
    return (
        always + sparse_layers * num_experts * expert,
        always + sparse_layers * config.num_experts_per_tok * expert,
    )


_ROUTER_NAMES = {"mixtral": "gate", "jamba": "router"}


class _Experts(nn.Module):
    """E SwiGLU layers, with their weights stacked."""

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))

    def forward(self, tokens: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
        output = torch.zeros_like(tokens)  # (T, H)
        for expert, (gate_up, down) in enumerate(zip(self.gate_up_proj, self.down_proj, strict=True)):
            token, slot = torch.where(indices == expert)  # tokens routed to this expert, and which of their k slots
            gate, up = F.linear(tokens[token], gate_up).chunk(2, dim=-1)  # (tokens of this expert, I) each
            expert_output = F.linear(F.silu(gate) * up, down)  # (tokens of this expert, H)
            output.index_add_(0, token, weights[token, slot, None] * expert_output)
        return output


def _probabilities(router_logits: Tensor) -> Tensor:
    """Softmax over the experts, in at least float32."""
    return torch.softmax(router_logits, dim=-1, dtype=torch.promote_types(router_logits.dtype, torch.float32))


def _num_experts(config: Any) -> int:
    return config.num_local_experts if config.model_type == "mixtral" else config.num_experts


def _mamba_parameters(config: Any) -> int:
    """The number of parameters of one Mamba mixer."""
    hidden, state, rank = config.hidden_size, config.mamba_d_state, config.mamba_dt_rank
    inner = config.mamba_expand * hidden
    projections = 3 * inner * hidden + (2 * inner + hidden if config.mamba_proj_bias else 0)  # in and out
    convolution = inner * (config.mamba_d_conv + bool(config.mamba_conv_bias))
    selection = inner * (rank + 2 * state) + (rank + 1) * inner + rank + 2 * state  # x_proj, dt_proj, the norms
    return projections + convolution + selection + inner * state + inner  # last two: A and D

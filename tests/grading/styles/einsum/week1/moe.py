"""Every token fetches the weights of its experts, and one einsum does the rest."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def route_top_k(router_logits, k, renormalize):
    if not 0 < k <= router_logits.size(-1):
        raise ValueError(f"k is {k}, there are {router_logits.size(-1)} experts")
    best, indices = torch.sort(router_logits, dim=-1, descending=True)
    best, indices = best[..., :k], indices[..., :k]
    dtype = torch.float64 if router_logits.dtype == torch.float64 else torch.float32
    if renormalize:
        return torch.softmax(best, -1, dtype=dtype).to(router_logits.dtype), indices
    weights = torch.softmax(router_logits, -1, dtype=dtype).gather(-1, indices)
    return weights.to(router_logits.dtype), indices


class _Router(nn.Module):
    def __init__(self, experts, hidden, std):
        super().__init__()
        self.weight = nn.Parameter(std * torch.randn(experts, hidden))


class _Experts(nn.Module):
    def __init__(self, experts, hidden, inner, std):
        super().__init__()
        self.down_proj = nn.Parameter(std * torch.randn(experts, hidden, inner))
        self.gate_up_proj = nn.Parameter(std * torch.randn(experts, 2 * inner, hidden))


class SparseMoeBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        if config.model_type not in {"mixtral", "jamba"}:
            raise ValueError(f"no such model type: {config.model_type}")
        self.mixtral = config.model_type == "mixtral"
        experts = config.num_local_experts if self.mixtral else config.num_experts
        self.k = config.num_experts_per_tok
        if self.k > experts:
            raise ValueError(f"num_experts_per_tok={self.k} is more than {experts}")
        sizes = config.hidden_size, config.intermediate_size, config.initializer_range
        self.experts = _Experts(experts, *sizes)
        router = _Router(experts, config.hidden_size, config.initializer_range)
        if self.mixtral:
            self.gate = router
        else:
            self.router = router

    def forward(self, hidden_states):
        weight = self.gate.weight if self.mixtral else self.router.weight
        weights, indices = route_top_k(torch.einsum("blh,eh->ble", hidden_states, weight), self.k, self.mixtral)
        gate_up = torch.einsum("blkih,blh->blki", self.experts.gate_up_proj[indices], hidden_states)
        gate, up = gate_up.tensor_split(2, dim=-1)
        return torch.einsum("blki,blkhi,blk->blh", F.silu(gate) * up, self.experts.down_proj[indices], weights)


def load_balancing_loss(gate_logits, num_experts, top_k=2, attention_mask=None):
    if not 0 < top_k <= num_experts:
        raise ValueError(f"top_k is {top_k}, there are {num_experts} experts")
    logits = torch.stack(list(gate_logits))  # (layers, T, E)
    if attention_mask is not None:
        logits = logits[:, attention_mask.reshape(-1).bool()]
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    probabilities = logits.softmax(-1, dtype=wide)
    assigned = torch.zeros_like(probabilities).scatter(-1, logits.topk(top_k, -1).indices, 1.0)
    return num_experts * (assigned.mean((0, 1)) * probabilities.mean((0, 1))).sum()


def parameter_counts(config):
    c, hidden = config, config.hidden_size
    mlp = 3 * hidden * c.intermediate_size
    attention = 2 * hidden**2 + 2 * hidden**2 * c.num_key_value_heads // c.num_attention_heads
    if c.model_type == "mixtral":
        experts, attending, sparse, mixer = c.num_local_experts, c.num_hidden_layers, c.num_hidden_layers, 0
    else:
        experts = c.num_experts
        attending = math.ceil(max(0, c.num_hidden_layers - c.attn_layer_offset) / c.attn_layer_period)
        sparse = math.ceil(max(0, c.num_hidden_layers - c.expert_layer_offset) / c.expert_layer_period)
        d, n, r = c.mamba_expand * hidden, c.mamba_d_state, c.mamba_dt_rank
        mixer = 3 * d * hidden + d * (c.mamba_d_conv + 2 * r + 3 * n + 2) + r + 2 * n
        mixer += d * int(c.mamba_conv_bias) + (2 * d + hidden) * int(c.mamba_proj_bias)
    shared = hidden * (c.vocab_size * (2 - int(c.tie_word_embeddings)) + 2 * c.num_hidden_layers + 1)
    shared += attending * attention + (c.num_hidden_layers - attending) * mixer
    shared += sparse * experts * hidden + (c.num_hidden_layers - sparse) * mlp
    return shared + sparse * experts * mlp, shared + sparse * c.num_experts_per_tok * mlp

"""One token at a time, one expert at a time."""

import torch
from torch import nn


def route_top_k(router_logits, k, renormalize):
    experts = router_logits.shape[-1]
    if k < 1 or k > experts:
        raise ValueError(f"cannot choose k={k} of {experts} experts")
    wide = router_logits if router_logits.dtype == torch.float64 else router_logits.float()
    weights, indices = [], []
    for logits in wide.reshape(-1, experts):
        powers = (logits - logits.max()).exp()
        order = sorted(range(experts), key=lambda expert: -float(logits[expert]))[:k]
        best = powers[order]
        weights.append(best / (best.sum() if renormalize else powers.sum()))
        indices.append(order)
    shape = (*router_logits.shape[:-1], k)
    if not weights:
        return router_logits.new_zeros(shape), torch.zeros(shape, dtype=torch.long)
    return torch.stack(weights).to(router_logits.dtype).view(shape), torch.tensor(indices).view(shape)


class SparseMoeBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        if config.model_type == "mixtral":
            experts = config.num_local_experts
            self.gate = router = nn.Linear(config.hidden_size, experts, bias=False)
        elif config.model_type == "jamba":
            experts = config.num_experts
            self.router = router = nn.Linear(config.hidden_size, experts, bias=False)
        else:
            raise ValueError(f"unknown model type {config.model_type}")
        if config.num_experts_per_tok > experts:
            raise ValueError(f"{config.num_experts_per_tok} experts a token, but only {experts} experts")
        self.config = config
        self.experts = nn.Module()
        inner, hidden, std = config.intermediate_size, config.hidden_size, config.initializer_range
        self.experts.gate_up_proj = nn.Parameter(torch.randn(experts, 2 * inner, hidden) * std)
        self.experts.down_proj = nn.Parameter(torch.randn(experts, hidden, inner) * std)
        router.weight.data = torch.randn(experts, hidden) * std

    def forward(self, hidden_states):
        mixtral, inner = self.config.model_type == "mixtral", self.config.intermediate_size
        logits = (self.gate if mixtral else self.router)(hidden_states)
        weights, indices = route_top_k(logits, self.config.num_experts_per_tok, mixtral)
        output = torch.zeros_like(hidden_states)
        for b in range(hidden_states.size(0)):
            for t in range(hidden_states.size(1)):
                x = hidden_states[b, t]
                for weight, expert in zip(weights[b, t], indices[b, t].tolist(), strict=True):
                    gate = self.experts.gate_up_proj[expert, :inner] @ x
                    up = self.experts.gate_up_proj[expert, inner:] @ x
                    y = self.experts.down_proj[expert] @ (gate * torch.sigmoid(gate) * up)
                    output[b, t] = output[b, t] + weight * y
        return output


def load_balancing_loss(gate_logits, num_experts, top_k=2, attention_mask=None):
    if not 0 < top_k <= num_experts:
        raise ValueError(f"{top_k=} of {num_experts=}")
    dtype = torch.float64 if gate_logits[0].dtype == torch.float64 else torch.float32
    counted = torch.zeros(num_experts, dtype=dtype)
    probability = torch.zeros(num_experts, dtype=dtype)
    tokens = 0
    for layer in gate_logits:
        for position, logits in enumerate(layer):
            if attention_mask is not None and not attention_mask.reshape(-1)[position]:
                continue
            tokens += 1
            p = logits.to(dtype).softmax(0)
            probability = probability + p
            counted[p.argsort(descending=True)[:top_k]] += 1
    return num_experts * (counted * probability).sum() / tokens**2


def parameter_counts(config):
    shapes = [(config.vocab_size, config.hidden_size), (config.hidden_size,)]
    if not config.tie_word_embeddings:
        shapes.append((config.vocab_size, config.hidden_size))
    experts = []
    hidden, inner = config.hidden_size, config.intermediate_size
    width = hidden // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        shapes += [(hidden,), (hidden,)]
        if config.model_type == "mixtral" or (layer - config.attn_layer_offset) % config.attn_layer_period == 0:
            shapes += [(config.num_attention_heads * width, hidden)] * 2
            shapes += [(config.num_key_value_heads * width, hidden)] * 2
        else:
            channels, states, rank = config.mamba_expand * hidden, config.mamba_d_state, config.mamba_dt_rank
            shapes += [(2 * channels, hidden), (hidden, channels), (channels, config.mamba_d_conv)]
            shapes += [(rank + 2 * states, channels), (channels, rank), (channels,), (channels, states), (channels,)]
            shapes += [(rank,), (states,), (states,)]
            if config.mamba_conv_bias:
                shapes.append((channels,))
            if config.mamba_proj_bias:
                shapes += [(2 * channels,), (hidden,)]
        one = [(inner, hidden), (inner, hidden), (hidden, inner)]
        if config.model_type == "mixtral" or (layer - config.expert_layer_offset) % config.expert_layer_period == 0:
            number = config.num_local_experts if config.model_type == "mixtral" else config.num_experts
            shapes.append((number, hidden))
            experts += one
        else:
            shapes += one

    def numbers(shapes):
        return sum(torch.Size(shape).numel() for shape in shapes)

    number = config.num_local_experts if config.model_type == "mixtral" else config.num_experts
    return [numbers(shapes) + times * numbers(experts) for times in (number, config.num_experts_per_tok)]

"""Routing by log-probabilities; tokens are sorted by expert, so that each expert's tokens are contiguous."""

import torch
from torch import nn
from torch.nn import functional as F


def route_top_k(router_logits, k, renormalize):
    number = router_logits.size(-1)
    if k not in range(1, number + 1):
        raise ValueError(f"k must be 1 … {number}, not {k}")
    logs, indices = _logs(router_logits).topk(k)
    if renormalize:
        logs = logs - logs.logsumexp(-1, keepdim=True)
    return logs.exp().to(router_logits.dtype), indices


def _logs(logits):
    return F.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))


class SparseMoeBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        try:
            name, field = {"mixtral": ("gate", "num_local_experts"), "jamba": ("router", "num_experts")}[
                config.model_type
            ]
        except KeyError as error:
            raise ValueError(f"model_type {error} is neither mixtral nor jamba") from None
        self.name, self.number, self.k = name, getattr(config, field), config.num_experts_per_tok
        if self.k > self.number:
            raise ValueError(f"{self.k} > {self.number}")
        hidden, inner = config.hidden_size, config.intermediate_size
        for parameter, shape in {
            f"{name}.weight": (self.number, hidden),
            "experts.gate_up_proj": (self.number, 2 * inner, hidden),
            "experts.down_proj": (self.number, hidden, inner),
        }.items():
            module, _, leaf = parameter.partition(".")
            if not hasattr(self, module):
                self.add_module(module, nn.Module())
            drawn = torch.empty(shape).normal_(0, config.initializer_range)
            getattr(self, module).register_parameter(leaf, nn.Parameter(drawn))

    def forward(self, hidden_states):
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        weights, indices = route_top_k(tokens @ getattr(self, self.name).weight.T, self.k, self.name == "gate")
        experts, order = indices.reshape(-1).sort(stable=True)
        source = order // self.k
        pieces = tokens[source].split(torch.bincount(experts, minlength=self.number).tolist())
        outputs = [
            F.glu((piece @ gate_up.T).roll(gate_up.size(0) // 2, -1), -1) * (piece @ gate_up.T).chunk(2, -1)[0] @ down.T
            for piece, gate_up, down in zip(pieces, self.experts.gate_up_proj, self.experts.down_proj, strict=True)
        ]
        weighted = torch.cat(outputs) * weights.reshape(-1, 1)[order]
        return torch.zeros_like(tokens).index_add(0, source, weighted).reshape(hidden_states.shape)


def load_balancing_loss(gate_logits, num_experts, top_k=2, attention_mask=None):
    f, p, total = 0, 0, 0
    for logits in gate_logits:
        if attention_mask is not None:
            logits = logits[attention_mask.reshape(-1) != 0]
        _, indices = route_top_k(logits, top_k, True)
        logs = _logs(logits)
        f = f + torch.bincount(indices.reshape(-1), minlength=num_experts).to(logs)
        p = p + logs.logsumexp(0).exp()
        total += len(logits)
    return num_experts * (f / total).dot(p / total)


def parameter_counts(config):
    with torch.device("meta"):
        total = sum(p.numel() for p in _skeleton(config).parameters())
    mixtral = config.model_type == "mixtral"
    sparse = [i for i in range(config.num_hidden_layers) if mixtral or _every(config, "expert", i)]
    experts = config.num_local_experts if mixtral else config.num_experts
    idle = len(sparse) * (experts - config.num_experts_per_tok) * 3 * config.hidden_size * config.intermediate_size
    return total, total - idle


def _every(config, what, layer):
    return layer % getattr(config, f"{what}_layer_period") == getattr(config, f"{what}_layer_offset")


def _skeleton(config):
    """The model's layers with nothing in them but parameters."""
    hidden, inner, mixtral = config.hidden_size, config.intermediate_size, config.model_type == "mixtral"
    model = nn.ModuleList([nn.Embedding(config.vocab_size, hidden), nn.RMSNorm(hidden)])
    if not config.tie_word_embeddings:
        model.append(nn.Linear(hidden, config.vocab_size, bias=False))
    for i in range(config.num_hidden_layers):
        model += [nn.RMSNorm(hidden), nn.RMSNorm(hidden)]
        if mixtral or _every(config, "attn", i):
            groups = hidden // config.num_attention_heads * config.num_key_value_heads
            model += [nn.Linear(hidden, width, bias=False) for width in (hidden, hidden, groups, groups)]
        else:
            wide, n, rank = config.mamba_expand * hidden, config.mamba_d_state, config.mamba_dt_rank
            model += [
                nn.Linear(hidden, 2 * wide, bias=config.mamba_proj_bias),
                nn.Conv1d(wide, wide, config.mamba_d_conv, groups=wide, bias=config.mamba_conv_bias),
                nn.Linear(wide, rank + 2 * n, bias=False),
                nn.Linear(rank, wide),
                nn.Linear(wide, n + 1, bias=False),
                nn.Linear(wide, hidden, bias=config.mamba_proj_bias),
                nn.RMSNorm(rank),
                nn.RMSNorm(2 * n),
            ]
        if mixtral or _every(config, "expert", i):
            model.append(SparseMoeBlock(config))
        else:
            model += [nn.Linear(hidden, inner, bias=False) for _ in range(3)]
    return model

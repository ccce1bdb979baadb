"""A tree of bare parameters, one token at a time; the cache is a list with one entry per layer."""

import torch
from torch import nn
from torch.nn import functional as F

from .moe import SparseMoeBlock


def layer_schedule(
    num_layers, attn_layer_period=8, attn_layer_offset=4, expert_layer_period=2, expert_layer_offset=1
):  # fmt: skip
    kinds = [["mamba", "mlp"] for _ in range(num_layers)]
    rules = ((attn_layer_period, attn_layer_offset, "attention"), (expert_layer_period, expert_layer_offset, "moe"))
    for which, (period, offset, name) in enumerate(rules):
        if offset not in range(period):
            raise ValueError(f"offset {offset} is outside of the period {period}")
        for kind in kinds[offset::period]:
            kind[which] = name
    return [tuple(kind) for kind in kinds]


def kinds_of(c):
    return layer_schedule(
        c.num_hidden_layers, c.attn_layer_period, c.attn_layer_offset, c.expert_layer_period, c.expert_layer_offset
    )


def cache_bytes(config, context_length, dtype):
    c, size, total = config, torch.empty((), dtype=dtype).element_size(), 0
    if c.model_type not in ("llama", "qwen2", "mistral", "mixtral", "mamba", "rwkv", "jamba"):
        raise ValueError(f"unknown model_type {c.model_type}")
    for i in range(c.num_hidden_layers):
        if c.model_type == "rwkv":
            total += c.hidden_size * (size + size + 4 + 4 + 4)
        elif c.model_type == "mamba":
            total += c.intermediate_size * (c.conv_kernel + c.state_size) * size
        elif c.model_type == "jamba" and kinds_of(c)[i][0] == "mamba":
            total += c.mamba_expand * c.hidden_size * (c.mamba_d_conv + c.mamba_d_state) * size
        else:
            width = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
            window = getattr(c, "sliding_window", None) if c.model_type in ("mistral", "mixtral", "qwen2") else None
            if c.model_type == "qwen2" and not (c.use_sliding_window and i >= c.max_window_layers):
                window = None
            total += 2 * c.num_key_value_heads * width * min(context_length, window or context_length) * size
    return total


def norm(module, x, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * module.weight


def scale(size):
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(size))
    return module


class JambaLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = self.c = config
        h, d, n, r = c.hidden_size, c.mamba_expand * c.hidden_size, c.mamba_d_state, c.mamba_dt_rank
        k = h // c.num_attention_heads * c.num_key_value_heads
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c.vocab_size, h)
        self.model.final_layernorm = scale(h)
        self.model.layers = nn.ModuleList()
        self.lm_head = nn.Linear(h, c.vocab_size, bias=False)
        if c.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        for mixer, network in kinds_of(c):
            layer, part = nn.Module(), nn.Module()
            if mixer == "attention":
                layer.self_attn = part
                for name, i, o in (("q", h, h), ("k", h, k), ("v", h, k), ("o", h, h)):
                    part.add_module(f"{name}_proj", nn.Linear(i, o, bias=False))
            else:
                layer.mamba = part
                part.A_log, part.D = nn.Parameter(torch.zeros(d, n)), nn.Parameter(torch.zeros(d))
                part.in_proj, part.out_proj = (nn.Linear(i, o, bias=c.mamba_proj_bias) for i, o in ((h, 2 * d), (d, h)))
                part.conv1d = nn.Conv1d(d, d, c.mamba_d_conv, groups=d, bias=c.mamba_conv_bias)
                part.x_proj, part.dt_proj = nn.Linear(d, r + 2 * n, bias=False), nn.Linear(r, d)
                part.dt_layernorm, part.b_layernorm, part.c_layernorm = scale(r), scale(n), scale(n)
            if network == "moe" and c.num_experts > 1:
                layer.feed_forward = SparseMoeBlock(c)
            else:
                layer.feed_forward = nn.Module()
                for name, i, o in (("gate", h, c.intermediate_size), ("up", h, c.intermediate_size)):
                    layer.feed_forward.add_module(f"{name}_proj", nn.Linear(i, o, bias=False))
                layer.feed_forward.down_proj = nn.Linear(c.intermediate_size, h, bias=False)
            layer.input_layernorm, layer.pre_ff_layernorm = scale(h), scale(h)
            self.model.layers.append(layer)

    def forward(self, input_ids, attention_mask=None, cache=None, use_cache=False):
        length, eps = input_ids.size(1), self.c.rms_norm_eps
        kept = [None] * len(self.model.layers) if cache is None else list(cache)
        real = None if attention_mask is None else attention_mask != 0
        x = self.model.embed_tokens(input_ids)
        for i, layer in enumerate(self.model.layers):
            normed = norm(layer.input_layernorm, x, eps)
            if hasattr(layer, "self_attn"):
                mixed, kept[i] = self.attend(layer.self_attn, normed, real, kept[i])
            else:
                mixed, kept[i] = self.mix(layer.mamba, normed, None if real is None else real[:, -length:], kept[i])
            x = x + mixed
            normed, network = norm(layer.pre_ff_layernorm, x, eps), layer.feed_forward
            if isinstance(network, SparseMoeBlock):
                x = x + network(normed)
            else:
                x = x + network.down_proj(F.silu(network.gate_proj(normed)) * network.up_proj(normed))
        logits = self.lm_head(norm(self.model.final_layernorm, x, eps))
        return (logits, kept) if use_cache else logits

    def attend(self, part, x, real, kept):
        heads, group = self.c.num_attention_heads, self.c.num_attention_heads // self.c.num_key_value_heads
        queries = part.q_proj(x).unflatten(-1, (heads, -1)).unbind(1)  # by token, (B, H, width)
        keys, values = kept or ((), ())
        keys, values = list(keys), list(values)
        out = []
        for t, query in enumerate(queries):
            keys.append(part.k_proj(x[:, t]).unflatten(-1, (heads // group, -1)))
            values.append(part.v_proj(x[:, t]).unflatten(-1, (heads // group, -1)))
            k, v = (torch.stack(each, 1).repeat_interleave(group, 2) for each in (keys, values))  # (B, s, H, width)
            scores = torch.einsum("bhd,bshd->bhs", query, k) * query.size(-1) ** -0.5
            if real is not None:
                scores = scores.masked_fill(~real[:, None, : len(keys)], -1e4)
            out.append(torch.einsum("bhs,bshd->bhd", scores.softmax(-1), v).flatten(1))
        return part.o_proj(torch.stack(out, 1)), (tuple(keys), tuple(values))

    def mix(self, part, x, real, kept):
        c, eps = self.c, self.c.rms_norm_eps
        u, z = part.in_proj(x).chunk(2, -1)
        recent, state = kept or ([torch.zeros_like(u[:, 0])] * (c.mamba_d_conv - 1), 0)
        ys = []
        for t in range(x.size(1)):
            there = 1 if real is None else real[:, t, None].to(x.dtype)
            recent = [*recent, u[:, t] * there]
            now = (torch.stack(recent, -1) * part.conv1d.weight[:, 0]).sum(-1)
            now = F.silu(now if part.conv1d.bias is None else now + part.conv1d.bias) * there
            recent = recent[1:]
            dt, b, cc = part.x_proj(now).split([c.mamba_dt_rank, c.mamba_d_state, c.mamba_d_state], -1)
            dt = F.softplus(part.dt_proj(norm(part.dt_layernorm, dt, eps)))[..., None]
            b, cc = norm(part.b_layernorm, b, eps)[:, None], norm(part.c_layernorm, cc, eps)[:, None]
            state = state * torch.exp(-dt * part.A_log.float().exp()) + dt * b * now[..., None]
            ys.append(((state * cc).sum(-1) + part.D * now) * F.silu(z[:, t]))
        return part.out_proj(torch.stack(ys, 1).to(x.dtype)), (recent, state)

"""All in one file: functions of a flat dictionary of weights. Scans without loops, all experts at once, nothing
overwritten."""

import math

import torch
from torch import nn

LAYOUT = {
    "llama": lambda c, i, n: attention_numbers(c, n),
    "mistral": lambda c, i, n: attention_numbers(c, windowed(c, n)),
    "mixtral": lambda c, i, n: attention_numbers(c, windowed(c, n)),
    "qwen2": lambda c, i, n: attention_numbers(
        c, windowed(c, n) if c.use_sliding_window and i >= c.max_window_layers else n
    ),
    "mamba": lambda c, i, n: (c.intermediate_size * (c.conv_kernel + c.state_size), 0),
    "rwkv": lambda c, i, n: (2 * c.hidden_size, 3 * c.hidden_size),
    "jamba": lambda c, i, n: (
        attention_numbers(c, n)
        if kinds_of(c)[i][0] == "attention"
        else (c.mamba_expand * c.hidden_size * (c.mamba_d_conv + c.mamba_d_state), 0)
    ),
}


def attention_numbers(c, n):
    width = vars(c).get("head_dim") or c.hidden_size // c.num_attention_heads
    return n * c.num_key_value_heads * width * 2, 0


def windowed(c, n):
    return n if vars(c).get("sliding_window") is None else min(n, c.sliding_window)


def cache_bytes(config, context_length, dtype):
    if config.model_type not in LAYOUT:
        raise ValueError(f"no cache is known for {config.model_type}")
    numbers = [LAYOUT[config.model_type](config, i, context_length) for i in range(config.num_hidden_layers)]
    return sum(own * (torch.finfo(dtype).bits // 8) + wide * 4 for own, wide in numbers)


def layer_schedule(
    num_layers, attn_layer_period=8, attn_layer_offset=4, expert_layer_period=2, expert_layer_offset=1
):  # fmt: skip
    def chosen(period, offset, yes, no):
        if offset < 0 or offset >= period:
            raise ValueError(f"an offset of {offset} in a period of {period}")
        once = [no] * offset + [yes] + [no] * (period - offset - 1)
        return (once * math.ceil(num_layers / period))[:num_layers]

    mixers = chosen(attn_layer_period, attn_layer_offset, "attention", "mamba")
    return list(zip(mixers, chosen(expert_layer_period, expert_layer_offset, "moe", "mlp"), strict=True))


def kinds_of(c):
    return layer_schedule(
        c.num_hidden_layers, c.attn_layer_period, c.attn_layer_offset, c.expert_layer_period, c.expert_layer_offset
    )


def shapes_of(c):
    h, i, e, d, n, r = (
        c.hidden_size, c.intermediate_size, c.num_experts, c.mamba_expand * c.hidden_size, c.mamba_d_state,
        c.mamba_dt_rank,
    )  # fmt: skip
    k = h // c.num_attention_heads * c.num_key_value_heads
    yield from (("model.embed_tokens.weight", (c.vocab_size, h)), ("model.final_layernorm.weight", (h,)))
    yield "lm_head.weight", (c.vocab_size, h)
    for layer, (mixer, network) in enumerate(kinds_of(c)):
        parts = {"input_layernorm.weight": (h,), "pre_ff_layernorm.weight": (h,)}
        if mixer == "attention":
            parts |= {f"self_attn.{name}_proj.weight": (k, h) for name in "kv"}
            parts |= {f"self_attn.{name}_proj.weight": (h, h) for name in "qo"}
        else:
            mamba = {"A_log": (d, n), "D": (d,), "in_proj.weight": (2 * d, h), "conv1d.weight": (d, 1, c.mamba_d_conv)}
            mamba |= {"x_proj.weight": (r + 2 * n, d), "dt_proj.weight": (d, r), "dt_proj.bias": (d,)}
            mamba |= {"out_proj.weight": (h, d), "dt_layernorm.weight": (r,), "b_layernorm.weight": (n,)}
            mamba |= {"c_layernorm.weight": (n,)}
            mamba |= {"conv1d.bias": (d,)} if c.mamba_conv_bias else {}
            mamba |= {"in_proj.bias": (2 * d,), "out_proj.bias": (h,)} if c.mamba_proj_bias else {}
            parts |= {f"mamba.{name}": shape for name, shape in mamba.items()}
        if network == "moe" and e > 1:
            feed = {"router.weight": (e, h), "experts.gate_up_proj": (e, 2 * i, h), "experts.down_proj": (e, h, i)}
        else:
            feed = {"gate_proj.weight": (i, h), "up_proj.weight": (i, h), "down_proj.weight": (h, i)}
        parts |= {f"feed_forward.{name}": shape for name, shape in feed.items()}
        for name, shape in parts.items():
            yield f"model.layers.{layer}.{name}", shape


class JambaLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        for path, shape in shapes_of(config):
            *folders, leaf = path.split(".")
            module = self
            for folder in folders:
                if folder not in dict(module.named_children()):
                    module.add_module(folder, nn.Module())
                module = module.get_submodule(folder)
            module.register_parameter(leaf, nn.Parameter(torch.full(shape, 0.01)))
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids, attention_mask=None, cache=None, use_cache=False):
        c, before = self.config, cache or {}
        length = input_ids.size(1)
        past = before.get("length", 0)
        real = attention_mask if attention_mask is not None else input_ids.new_ones(len(input_ids), past + length)
        after = {"length": past + length}
        x = self.model.embed_tokens.weight[input_ids]
        for i, layer in enumerate(self.model.layers.children()):
            w = dict(layer.named_parameters())
            mixer = attend if "self_attn.q_proj.weight" in w else mix
            mixed, after[i] = mixer(c, w, rms(x, w["input_layernorm.weight"], c), real, before.get(i))
            x = x + mixed
            network = experts if "feed_forward.router.weight" in w else dense
            x = x + network(c, w, rms(x, w["pre_ff_layernorm.weight"], c))
        logits = torch.einsum("blh,vh->blv", rms(x, self.model.final_layernorm.weight, c), self.lm_head.weight)
        return (logits, after) if use_cache else logits


def rms(x, weight, c):
    wide = x.double()
    return (wide / torch.sqrt(wide.square().mean(-1, keepdim=True) + c.rms_norm_eps)).to(x.dtype) * weight


def silu(x):
    return x * torch.sigmoid(x)


def dense(c, w, x):
    gate, up = (torch.einsum("blh,ih->bli", x, w[f"feed_forward.{name}_proj.weight"]) for name in ("gate", "up"))
    return torch.einsum("bli,hi->blh", silu(gate) * up, w["feed_forward.down_proj.weight"])


def experts(c, w, x):
    probabilities = torch.einsum("blh,eh->ble", x, w["feed_forward.router.weight"]).softmax(-1, torch.float64)
    order = probabilities.argsort(-1, descending=True).argsort(-1)  # the rank of each expert
    shares = torch.where(order < c.num_experts_per_tok, probabilities, 0).to(x.dtype)
    gate, up = torch.einsum("blh,ejh->eblj", x, w["feed_forward.experts.gate_up_proj"]).chunk(2, -1)
    return torch.einsum("ebli,ehi,ble->blh", silu(gate) * up, w["feed_forward.experts.down_proj"], shares)


def attend(c, w, x, real, before):
    groups = c.num_key_value_heads
    q, k, v = (torch.einsum("blh,oh->blo", x, w[f"self_attn.{name}_proj.weight"]) for name in "qkv")
    q = q.unflatten(-1, (groups, c.num_attention_heads // groups, -1))
    k, v = (each.unflatten(-1, (groups, -1)) for each in (k, v))
    if before is not None:
        k, v = (torch.cat(pair, 1) for pair in zip(before, (k, v), strict=True))
    scores = torch.einsum("blgrd,bsgd->bgrls", q, k).double() / math.sqrt(k.size(-1))
    position = torch.arange(k.size(1), device=x.device)
    seen = (position <= position[-x.size(1) :, None]) & (real != 0)[:, None, None, None]
    shares = (scores.masked_fill(~seen, -1e30) - scores.detach().amax(-1, keepdim=True).clamp(min=-1e20)).exp()
    shares = torch.where(seen, shares, 0)
    shares = (shares / shares.sum(-1, keepdim=True).clamp(min=1e-300)).to(x.dtype)
    heads = torch.einsum("bgrls,bsgd->blgrd", shares, v).flatten(2)
    return torch.einsum("blo,ho->blh", heads, w["self_attn.o_proj.weight"]), (k, v)


def mix(c, w, x, real, before):
    """The scan has a closed form: what stands at s weighs exp(A (Δ_{s+1} + … + Δ_t)) at t, and so does the past."""
    w = {name.removeprefix("mamba."): each for name, each in w.items() if name.startswith("mamba.")}
    length, width = x.size(1), c.mamba_d_conv
    there = (real[:, -length:, None] != 0).to(x.dtype)
    u, z = (torch.einsum("blh,dh->bld", x, w["in_proj.weight"]) + w.get("in_proj.bias", 0)).chunk(2, -1)
    tail, state = before or (u.new_zeros(len(u), width - 1, u.size(-1)), None)
    padded = torch.cat([tail, u * there], 1)
    windows = padded.unfold(1, width, 1)  # (B, L, D, W)
    u = silu(torch.einsum("bldw,dw->bld", windows, w["conv1d.weight"][:, 0]) + w.get("conv1d.bias", 0)) * there

    chosen = torch.einsum("bld,rd->blr", u, w["x_proj.weight"])
    dt, B, C = chosen.split([c.mamba_dt_rank, c.mamba_d_state, c.mamba_d_state], -1)
    dt, B, C = (rms(each, w[f"{name}_layernorm.weight"], c) for name, each in (("dt", dt), ("b", B), ("c", C)))
    dt = torch.einsum("blr,dr->bld", dt, w["dt_proj.weight"]).double() + w["dt_proj.bias"]
    dt = torch.logaddexp(dt, torch.zeros_like(dt))
    rates = -w["A_log"].double().exp()
    elapsed = dt.cumsum(1)
    gaps = elapsed[:, :, None] - elapsed[:, None]  # (B, t, s, D)
    causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()[..., None]
    left = torch.where(causal[..., None], torch.exp(torch.where(causal, gaps, 0)[..., None] * rates), 0)
    states = torch.einsum("btsdn,bsd,bsn->btdn", left, dt * u, B.double())
    if state is not None:
        states = states + torch.exp(elapsed[..., None] * rates) * state[:, None]
    y = torch.einsum("btdn,btn->btd", states, C.double()) + w["D"] * u
    out = torch.einsum("bld,hd->blh", (y * silu(z.double())).to(x.dtype), w["out_proj.weight"])
    return out + w.get("out_proj.bias", 0), (padded[:, length:].clone(), states[:, -1].clone())

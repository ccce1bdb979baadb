"""Mamba as a recurrent network: one cell, in a loop over the sequence."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Mamba(nn.Module):
    def __init__(
        self, d_model, d_state=16, d_conv=4, expand=2, dt_rank="auto", dt_min=0.001, dt_max=0.1, dt_init="random",
        dt_scale=1.0, dt_init_floor=1e-4, conv_bias=True, bias=False, device=None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        if dt_init not in ("random", "constant"):
            raise ValueError(f"unknown dt_init {dt_init}")
        kind = {"device": device, "dtype": dtype}
        self.n, self.w, self.d = d_state, d_conv, int(d_model * expand)
        self.r = -(-d_model // 16) if dt_rank == "auto" else dt_rank
        self.A_log = nn.Parameter(torch.tensor([[math.log(i + 1) for i in range(d_state)]] * self.d, **kind))
        self.D = nn.Parameter(torch.ones(self.d, **kind))
        self.A_log._no_weight_decay = self.D._no_weight_decay = True
        self.out_proj = nn.Linear(self.d, d_model, bias, **kind)
        self.dt_proj = nn.Linear(self.r, self.d, True, **kind)
        self.x_proj = nn.Linear(self.d, self.r + 2 * d_state, False, **kind)
        self.conv1d = nn.Conv1d(self.d, self.d, d_conv, padding=d_conv - 1, groups=self.d, bias=conv_bias, **kind)
        self.in_proj = nn.Linear(d_model, 2 * self.d, bias, **kind)
        std = self.r**-0.5 * dt_scale
        drawn = torch.rand(self.d) * math.log(dt_max / dt_min) + math.log(dt_min)
        dt = drawn.exp().clamp(min=dt_init_floor).double()
        with torch.no_grad():
            self.dt_proj.weight.fill_(std) if dt_init == "constant" else self.dt_proj.weight.uniform_(-std, std)
            self.dt_proj.bias.copy_(dt.expm1().log())

    def cell(self, token, conv, ssm):
        """(b, E) and the two states -> the output and the next states."""
        both = self.in_proj(token)
        x, z = both[:, : self.d], both[:, self.d :]
        conv = torch.cat([conv[:, :, 1:], x[:, :, None]], 2)
        u = (conv * self.conv1d.weight[:, 0]).sum(2)
        u = F.silu(u if self.conv1d.bias is None else u + self.conv1d.bias)
        chosen = self.x_proj(u)
        delta = F.softplus(self.dt_proj(chosen[:, : self.r]).to(ssm.dtype))
        b, c = chosen[:, self.r : -self.n].to(ssm.dtype), chosen[:, -self.n :].to(ssm.dtype)
        decay = (-delta[:, :, None] * self.A_log.to(ssm.dtype).exp()).exp()
        ssm = decay * ssm + (delta * u.to(ssm.dtype))[:, :, None] * b[:, None]
        y = torch.bmm(ssm, c[:, :, None])[:, :, 0] + self.D.to(ssm.dtype) * u
        return self.out_proj((y * F.silu(z.to(ssm.dtype))).to(token.dtype)), conv, ssm

    def forward(self, hidden_states, states=None):
        conv, ssm = self.allocate_inference_cache(len(hidden_states), hidden_states.shape[1])
        outputs = []
        for token in hidden_states.unbind(1):
            output, conv, ssm = self.cell(token, conv, ssm)
            outputs.append(output)
        if states is not None:
            states[0][...], states[1][...] = conv, ssm
        return torch.stack(outputs, 1)

    def step(self, hidden_states, conv_state, ssm_state):
        if hidden_states.shape[1] > 1:
            raise ValueError(f"{hidden_states.shape[1]} positions in one step")
        wide = torch.float64 if hidden_states.dtype == torch.float64 else torch.float32
        output, conv, ssm = self.cell(hidden_states[:, 0], conv_state, ssm_state.to(wide))
        conv_state[...], ssm_state[...] = conv, ssm
        return output[:, None], conv_state, ssm_state

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None, **_):
        own = self.A_log.dtype
        wide = torch.float64 if own == torch.float64 else torch.float32
        conv = torch.zeros(batch_size, self.d, self.w, dtype=dtype or own, device=self.A_log.device)
        return conv, torch.zeros(batch_size, self.d, self.n, dtype=dtype or wide, device=self.A_log.device)


class _Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        wide = x if x.dtype == torch.float64 else x.float()
        scaled = wide * torch.rsqrt((wide * wide).sum(-1, keepdim=True) / x.shape[-1] + self.eps)
        return (self.weight * scaled).to(self.weight.dtype)


class MambaLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.backbone = nn.Module()
        self.backbone.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.backbone.layers = nn.ModuleList()
        for _ in range(config.num_hidden_layers):
            layer = nn.Module()
            layer.norm = _Norm(config.hidden_size, config.layer_norm_epsilon)
            layer.mixer = Mamba(
                config.hidden_size, d_state=config.state_size, d_conv=config.conv_kernel, expand=config.expand,
                dt_rank=config.time_step_rank, conv_bias=config.use_conv_bias, bias=config.use_bias,
            )  # fmt: skip
            self.backbone.layers.append(layer)
        self.backbone.norm_f = _Norm(config.hidden_size, config.layer_norm_epsilon)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight

    def forward(self, input_ids, states=None):
        used = self.allocate_inference_cache(len(input_ids), input_ids.shape[1])
        logits = torch.cat([self._next(input_ids[:, t : t + 1], used) for t in range(input_ids.shape[1])], 1)
        for i in states or ():
            for given, made in zip(states[i], used[i], strict=True):
                given.copy_(made)
        return logits

    def step(self, input_ids, states):
        if input_ids.shape[1] != 1:
            raise ValueError(f"input_ids has {input_ids.shape[1]} tokens")
        used = dict(states)
        logits = self._next(input_ids, used)
        for i, pair in states.items():
            for given, made in zip(pair, used[i], strict=True):
                given.copy_(made)
        return logits, states

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None):
        layers = self.backbone.layers
        return {i: layers[i].mixer.allocate_inference_cache(batch_size, max_seqlen, dtype) for i in range(len(layers))}

    def _next(self, token, states):
        """Replaces the entries of `states`."""
        x = self.backbone.embeddings(token[:, 0])
        if self.config.residual_in_fp32 and x.dtype != torch.float64:
            x = x.float()
        for i, layer in enumerate(self.backbone.layers):
            conv, ssm = states[i]
            y, *states[i] = layer.mixer.cell(layer.norm(x), conv, ssm)
            x = x + y
        logits = self.lm_head(self.backbone.norm_f(x))
        return (logits if logits.dtype == torch.float64 else logits.float())[:, None]

"""Mamba in float64 throughout, with a scan by doubling: after k rounds each position includes the 2ᵏ before it."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def _scan(decay, written):
    """(b, l, d, n): all states of x_t = decay_t x_{t-1} + written_t."""
    reach = 1
    while reach < decay.size(1):
        written = torch.cat([written[:, :reach], written[:, reach:] + decay[:, reach:] * written[:, :-reach]], 1)
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], 1)
        reach *= 2
    return written


class Mamba(nn.Module):
    def __init__(
        self, d_model, d_state=16, d_conv=4, expand=2, dt_rank="auto", dt_min=1e-3, dt_max=1e-1, dt_init="random",
        dt_scale=1.0, dt_init_floor=1e-4, conv_bias=True, bias=False, **unused,
    ):  # fmt: skip
        super().__init__()
        inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=bias)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, bias=conv_bias)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1, dtype=torch.float32).repeat(inner, 1).log_())
        self.D = nn.Parameter(torch.full((inner,), 1.0))
        self.out_proj = nn.Linear(inner, d_model, bias=bias)
        setattr(self.A_log, "_no_weight_decay", True)  # noqa: B010
        setattr(self.D, "_no_weight_decay", True)  # noqa: B010
        std = dt_scale / self.dt_rank**0.5
        {"random": self._random, "constant": self._constant}.get(dt_init, self._unknown)(std, dt_init)
        logs = torch.distributions.Uniform(math.log(dt_min), math.log(dt_max)).sample((inner,)).double()
        dt = logs.exp().clamp(min=dt_init_floor)
        self.dt_proj.bias.data = torch.log(torch.exp(dt) - 1).float()

    def _random(self, std, _):
        nn.init.uniform_(self.dt_proj.weight, -std, std)

    def _constant(self, std, _):
        nn.init.constant_(self.dt_proj.weight, std)

    def _unknown(self, _, name):
        raise ValueError(f"dt_init={name}")

    def _exact(self, x, conv, ssm):
        """All in float64, from what came before: the output, and the states after it."""
        weights = {name: each.double() for name, each in self.named_parameters()}

        def linear(name, x):
            return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

        inputs, z = linear("in_proj", x.double()).tensor_split(2, -1)
        seen = torch.cat([conv.double().mT, inputs], 1)
        kernel = weights["conv1d.weight"][:, 0].T
        length, width = inputs.size(1), len(kernel)
        first = seen.size(1) - length - width + 1
        u = sum(kernel[i] * seen[:, first + i : first + i + length] for i in range(width))
        u = F.silu(u + weights.get("conv1d.bias", 0))
        delta, B, C = linear("x_proj", u).split([self.dt_rank] + 2 * [self.A_log.size(1)], -1)
        delta = F.softplus(linear("dt_proj", delta))
        decay = torch.exp(delta[..., None] * -weights["A_log"].exp())
        written = (delta * u)[..., None] * B[:, :, None]
        written = torch.cat([written[:, :1] + decay[:, :1] * ssm.double()[:, None], written[:, 1:]], 1)
        states = _scan(decay, written)
        y = (states @ C[..., None])[..., 0] + weights["D"] * u
        return linear("out_proj", y * F.silu(z)).to(x.dtype), seen.mT[..., -width:], states[:, -1]

    def forward(self, hidden_states, states=None):
        fresh = self.allocate_inference_cache(hidden_states.size(0), 0)
        output, *after = self._exact(hidden_states, *fresh)
        for given, made in zip(states or (), after, strict=False):
            given.copy_(made)
        return output

    def step(self, hidden_states, conv_state, ssm_state):
        if hidden_states.size(1) != 1:
            raise ValueError(f"one position at a time, not {hidden_states.size(1)}")
        output, conv, ssm = self._exact(hidden_states, conv_state, ssm_state)
        return output, conv_state.copy_(conv), ssm_state.copy_(ssm)

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None):
        (inner, n), weight = self.A_log.shape, self.out_proj.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        conv = torch.zeros(batch_size, inner, self.conv1d.kernel_size[0], dtype=dtype or weight.dtype)
        return conv.to(weight.device), torch.zeros(batch_size, inner, n, dtype=dtype or wide, device=weight.device)


class _Sized(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class _Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm = _Sized(config.hidden_size)
        self.mixer = Mamba(
            config.hidden_size, config.state_size, config.conv_kernel, config.expand, config.time_step_rank,
            conv_bias=config.use_conv_bias, bias=config.use_bias,
        )  # fmt: skip


class _Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm_f = _Sized(config.hidden_size)


class MambaLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.eps = config.layer_norm_epsilon
        self.backbone = _Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight

    def forward(self, input_ids, states=None):
        fresh = self.allocate_inference_cache(input_ids.size(0), 0)
        logits, after = self._exact(input_ids, fresh)
        if states is not None:
            self._write(states, after)
        return logits

    def step(self, input_ids, states):
        if input_ids.size(1) != 1:
            raise ValueError(f"one token at a time, not {input_ids.size(1)}")
        logits, after = self._exact(input_ids, states)
        self._write(states, after)
        return logits, states

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None):
        states = {}
        for layer in self.backbone.layers:
            states[len(states)] = layer.mixer.allocate_inference_cache(batch_size, max_seqlen, dtype)
        return states

    @staticmethod
    def _write(states, after):
        for i, pair in enumerate(after):
            for given, made in zip(states[i], pair, strict=True):
                given.copy_(made)

    def _norm(self, x, norm):
        return norm.weight.double() * x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def _exact(self, input_ids, states):
        x, after = self.backbone.embeddings(input_ids).double(), []
        for i, layer in enumerate(self.backbone.layers):
            y, *state = layer.mixer._exact(self._norm(x, layer.norm), *states[i])
            x = x + y
            after.append(state)
        logits = self._norm(x, self.backbone.norm_f) @ self.lm_head.weight.double().T
        return logits.to(torch.promote_types(self.lm_head.weight.dtype, torch.float32)), after

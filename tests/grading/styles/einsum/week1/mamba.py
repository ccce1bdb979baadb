"""Mamba in chunks of 16 positions, each an attention whose scores are differences of prefix sums."""

import torch
from torch import nn
from torch.nn import functional as F

CHUNK = 16


def _wide(x):
    return x if x.dtype == torch.float64 else x.float()


class Mamba(nn.Module):
    def __init__(
        self,
        d_model,
        d_state=16,
        d_conv=4,
        expand=2,
        dt_rank="auto",
        dt_min=0.001,
        dt_max=0.1,
        dt_init="random",
        dt_scale=1.0,
        dt_init_floor=1e-4,
        conv_bias=True,
        bias=False,
    ):
        super().__init__()
        d = int(expand * d_model)
        r = (d_model + 15) // 16 if dt_rank == "auto" else dt_rank
        self.rank, self.states = r, d_state
        self.in_proj = nn.Linear(d_model, d + d, bias=bias)
        self.conv1d = nn.Conv1d(d, d, kernel_size=d_conv, groups=d, padding=d_conv - 1, bias=conv_bias)
        self.x_proj = nn.Linear(d, r + d_state + d_state, bias=False)
        self.dt_proj = nn.Linear(r, d)
        self.out_proj = nn.Linear(d, d_model, bias=bias)
        match dt_init:
            case "random":
                self.dt_proj.weight = nn.Parameter((2 * torch.rand(d, r) - 1) * dt_scale * r**-0.5)
            case "constant":
                self.dt_proj.weight = nn.Parameter(torch.full((d, r), dt_scale * r**-0.5))
            case other:
                raise ValueError(f"dt_init cannot be {other!r}")
        steps = torch.maximum(dt_min * (dt_max / dt_min) ** torch.rand(d), torch.tensor(dt_init_floor))
        self.dt_proj.bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))
        self.A_log = nn.Parameter(torch.log(torch.arange(1, d_state + 1).float()).expand(d, -1).clone())
        self.D = nn.Parameter(torch.ones(d))
        for each in (self.A_log, self.D):
            each._no_weight_decay = True

    def forward(self, hidden_states, states=None):
        output, inputs, ssm = self._run(hidden_states, None, None)
        if states is not None:
            width = self.conv1d.weight.shape[-1]
            states[0].zero_()
            kept = inputs[..., -width:]
            states[0][..., width - kept.shape[-1] :].copy_(kept)
            states[1].copy_(ssm)
        return output

    def step(self, hidden_states, conv_state, ssm_state):
        if hidden_states.size(1) != 1:
            raise ValueError(f"hidden_states has the length {hidden_states.size(1)}, which should be 1")
        output, inputs, ssm = self._run(hidden_states, conv_state[..., 1:], ssm_state)
        conv_state.copy_(torch.cat((conv_state[..., 1:], inputs), -1))
        ssm_state.copy_(ssm)
        return output, conv_state, ssm_state

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None):
        d, width = self.conv1d.weight.shape[0], self.conv1d.weight.shape[-1]
        conv = self.D.new_zeros((batch_size, d, width), dtype=dtype or self.D.dtype)
        return conv, self.D.new_zeros((batch_size, d, self.states), dtype=dtype or _wide(self.D[:0]).dtype)

    def _run(self, hidden_states, before, state):
        x, z = torch.einsum("ble,de->dbl", hidden_states, self.in_proj.weight).split(len(self.D))
        if self.in_proj.bias is not None:
            x, z = x + self.in_proj.bias[: len(x), None, None], z + self.in_proj.bias[len(x) :, None, None]
        x, z = x.transpose(0, 1), z.transpose(0, 1)
        if before is None:
            u = self.conv1d(x)[..., : x.shape[-1]]
        else:
            u = F.conv1d(torch.cat((before.to(x), x), -1), self.conv1d.weight, self.conv1d.bias, groups=len(self.D))
        u = F.silu(u)
        projected = torch.einsum("bdl,kd->kbl", u, self.x_proj.weight)
        delta, B, C = projected.split((self.rank, self.states, self.states))
        delta = torch.einsum("rbl,dr->bdl", _wide(delta), _wide(self.dt_proj.weight))
        delta = F.softplus(delta + _wide(self.dt_proj.bias)[:, None])
        y, state = self._scan(_wide(u), delta, _wide(B), _wide(C), state)
        y = (y + _wide(self.D)[:, None] * _wide(u)) * F.silu(_wide(z))
        output = torch.einsum("bdl,ed->ble", y.to(x), self.out_proj.weight)
        return output if self.out_proj.bias is None else output + self.out_proj.bias, x, state

    def _scan(self, u, delta, B, C, state):
        A = -torch.exp(_wide(self.A_log))
        state = u.new_zeros(len(u), *A.shape) if state is None else state.to(u)
        outputs = []
        for start in range(0, u.shape[-1], CHUNK):
            part = slice(start, start + CHUNK)
            step, b, c = delta[..., part], B[..., part], C[..., part]
            total = step.cumsum(-1)
            age = total[..., :, None] - total[..., None, :]
            left = torch.exp(torch.einsum("bdts,dn->bdnts", age.tril(-1), A)).tril()
            written = torch.einsum("bds,nbs->bdns", step * u[..., part], b)
            inside = torch.einsum("bdnts,bdns->bdnt", left, written)
            inside = inside + torch.exp(torch.einsum("bdt,dn->bdnt", total, A)) * state[..., None]
            outputs.append(torch.einsum("bdnt,nbt->bdt", inside, c))
            state = inside[..., -1]
        return torch.cat(outputs, -1), state


class MambaLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.backbone = _Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight

    def forward(self, input_ids, states=None):
        return self._head(self.backbone(input_ids, lambda i, mixer, x: mixer(x, None if states is None else states[i])))

    def step(self, input_ids, states):
        return self._head(self.backbone(input_ids, lambda i, mixer, x: mixer.step(x, *states[i])[0])), states

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None):
        mixers = [layer["mixer"] for layer in self.backbone.layers]
        return dict(enumerate(mixer.allocate_inference_cache(batch_size, max_seqlen, dtype) for mixer in mixers))

    def _head(self, hidden):
        return _wide(torch.einsum("ble,ve->blv", hidden, self.lm_head.weight))


class _Backbone(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_epsilon
        self.keep_wide = config.residual_in_fp32
        self.embeddings = nn.Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "mixer": Mamba(
                        width,
                        config.state_size,
                        config.conv_kernel,
                        config.expand,
                        config.time_step_rank,
                        conv_bias=config.use_conv_bias,
                        bias=config.use_bias,
                    ),
                    "norm": nn.RMSNorm(width, eps=eps),
                }
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm_f = nn.RMSNorm(width, eps=eps)

    def forward(self, input_ids, mix):
        stream = self.embeddings(input_ids)
        dtype = stream.dtype
        if self.keep_wide:
            stream = _wide(stream)
        for i, layer in enumerate(self.layers):
            stream = stream + mix(i, layer["mixer"], layer["norm"](stream.to(dtype)))
        return self.norm_f(stream.to(dtype))

"""The state is an average and the log of its weight; texts without a past use the parallel form."""

import torch
from torch import nn
from torch.nn import functional as F


def _wide(*tensors):
    return [each.to(torch.promote_types(each.dtype, torch.float32)) for each in tensors]


def wkv(time_decay, time_first, key, value, state=None, return_state=False):
    decay, first, k, v = _wide(time_decay, time_first, key, value)
    if state is None:
        average, weight = torch.zeros_like(k[:, 0]), torch.full_like(k[:, 0], -1e30)
    else:
        numerator, denominator, maximum = state
        empty = denominator == 0
        average = numerator / denominator.masked_fill(empty, 1)
        weight = maximum + denominator.masked_fill(empty, 1).log()
    outputs = []
    for t in range(k.shape[1]):
        outputs.append(torch.lerp(average, v[:, t], torch.sigmoid(first + k[:, t] - weight)))
        weight = weight - decay.exp()
        average = torch.lerp(average, v[:, t], torch.sigmoid(k[:, t] - weight))
        weight = torch.logaddexp(weight, k[:, t])
    state = [average, torch.ones_like(average), weight] if return_state or state is not None else None
    return torch.stack(outputs, 1).to(key.dtype), state


def wkv_parallel(time_decay, time_first, key, value):
    decay, first, k, v = _wide(time_decay, time_first, key, value)
    steps = torch.arange(k.size(1))
    ages = (steps[:, None] - steps[None, :] - 1).tril(-1)
    scores = (k[:, None] - ages[..., None] * decay.exp()).permute(0, 3, 1, 2)  # (B, C, T, T)
    scores = scores + torch.diag_embed(first[:, None].expand(-1, k.size(1)))
    scores = scores.masked_fill(torch.ones(k.size(1), k.size(1), dtype=torch.bool).triu(1), -torch.inf)
    weights = torch.exp(scores.log_softmax(-1))
    return (weights @ v.transpose(1, 2)[..., None]).squeeze(-1).transpose(1, 2).to(key.dtype)


class _Shift(nn.Module):
    def __init__(self, hidden_size, names):
        super().__init__()
        for name in names:
            self.register_parameter(f"time_mix_{name}", nn.Parameter(torch.rand(1, 1, hidden_size)))

    def mixed(self, hidden, last, name):
        shifted = torch.empty_like(hidden)
        shifted[:, 1:] = hidden[:, :-1]
        shifted[:, 0] = 0 if last is None else last
        return torch.lerp(shifted, hidden, getattr(self, f"time_mix_{name}"))


class TimeMix(_Shift):
    def __init__(self, config, layer_id=0):
        super().__init__(config.hidden_size, ("key", "value", "receptance"))
        self.layer_id, channels = layer_id, config.attention_hidden_size
        self.time_decay, self.time_first = (nn.Parameter(torch.randn(channels)) for _ in range(2))
        self.key, self.value, self.receptance = (nn.Linear(config.hidden_size, channels, bias=False) for _ in range(3))
        self.output = nn.Linear(channels, config.hidden_size, bias=False)

    def forward(self, hidden, state=None, use_cache=False):
        i = self.layer_id
        last = None if state is None else state[1].unbind(-1)[i]
        key, value, receptance = (
            getattr(self, name)(self.mixed(hidden, last, name)) for name in ("key", "value", "receptance")
        )
        if state is None:
            return self.output(
                torch.sigmoid(receptance) * wkv_parallel(self.time_decay, self.time_first, key, value)
            ), None
        output, new = wkv(self.time_decay, self.time_first, key, value, [each[..., i] for each in state[2:]])
        state = [each.clone() for each in state]
        for number, each in enumerate([hidden[:, -1], *new], start=1):
            state[number][..., i] = each
        return self.output(torch.sigmoid(receptance) * output), state


class ChannelMix(_Shift):
    def __init__(self, config, layer_id=0):
        super().__init__(config.hidden_size, ("key", "receptance"))
        self.layer_id = layer_id
        self.key = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.receptance = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.value = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden, state=None):
        last = None if state is None else state[0].unbind(-1)[self.layer_id]
        key = self.key(self.mixed(hidden, last, "key"))
        output = torch.sigmoid(self.receptance(self.mixed(hidden, last, "receptance"))) * self.value(key * F.relu(key))
        if state is not None:
            state = [each.clone() for each in state]
            state[0][..., self.layer_id] = hidden[:, -1]
        return output, state


class RwkvLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        width, eps = config.hidden_size, config.layer_norm_epsilon
        self.rwkv = nn.Module()
        self.rwkv.embeddings = nn.Embedding(config.vocab_size, width)
        self.rwkv.blocks = nn.ModuleList()
        for layer in range(config.num_hidden_layers):
            norms = {name: nn.LayerNorm(width, eps) for name in ("ln1", "ln2")}
            if not layer:
                norms["pre_ln"] = nn.LayerNorm(width, eps)
            mixings = {"attention": TimeMix(config, layer), "feed_forward": ChannelMix(config, layer)}
            self.rwkv.blocks.append(nn.ModuleDict(norms | mixings))
        self.rwkv.ln_out = nn.LayerNorm(width, 1e-5)
        self.head = nn.Linear(width, config.vocab_size, bias=False)

    def forward(self, input_ids, state=None, use_cache=False):
        x = self.rwkv.embeddings(input_ids)
        if use_cache and state is None:
            sizes = [self.config.hidden_size] * 2 + [self.config.attention_hidden_size] * 3
            state = [x.new_zeros(x.size(0), size, self.config.num_hidden_layers) for size in sizes]
            state[4].fill_(-1e30)
        for block in self.rwkv.blocks:
            x = block["pre_ln"](x) if "pre_ln" in block else x
            y, state = block["attention"](block["ln1"](x), state)
            x = x + y
            y, state = block["feed_forward"](block["ln2"](x), state)
            x = x + y
        logits = self.head(self.rwkv.ln_out(x))
        return (logits, state) if use_cache else logits

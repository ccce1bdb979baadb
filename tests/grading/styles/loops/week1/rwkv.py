"""A loop with two exponentials for the output and two for the state, which is updated in place."""

import torch
from torch import nn
from torch.nn import functional as F


def wkv(time_decay, time_first, key, value, state=None, return_state=False):
    wide = torch.float64 if key.dtype == torch.float64 else torch.float32
    w, u = -time_decay.to(wide).exp(), time_first.to(wide)
    if state is None:
        aa, bb = torch.zeros_like(key[:, 0], dtype=wide), torch.zeros_like(key[:, 0], dtype=wide)
        pp = aa - 1e38
    else:
        aa, bb, pp = state
    outputs = []
    for t in range(key.size(1)):
        k, v = key[:, t].to(wide), value[:, t].to(wide)
        q = torch.max(pp, u + k)
        e1, e2 = torch.exp(pp - q), torch.exp(u + k - q)
        outputs.append(((e1 * aa + e2 * v) / (e1 * bb + e2)).to(key.dtype))
        q = torch.max(pp + w, k)
        e1, e2 = torch.exp(pp + w - q), torch.exp(k - q)
        aa, bb, pp = e1 * aa + e2 * v, e1 * bb + e2, q
    return torch.stack(outputs, 1), [aa, bb, pp] if return_state or state is not None else None


def wkv_parallel(time_decay, time_first, key, value):
    wide = torch.float64 if key.dtype == torch.float64 else torch.float32
    length = key.size(1)
    k, v, w = key.to(wide), value.to(wide), time_decay.to(wide).exp()
    distance = torch.arange(length).view(-1, 1) - torch.arange(length) - 1
    scores = k.unsqueeze(1) - distance.unsqueeze(-1) * w
    itself = torch.eye(length, dtype=torch.bool).unsqueeze(-1)
    scores = torch.where(itself, (k + time_first.to(wide)).unsqueeze(1), scores)
    scores = torch.where((distance < -1).unsqueeze(-1), float("-inf"), scores)
    powers = torch.exp(scores - scores.max(2, keepdim=True).values)
    return ((powers * v.unsqueeze(1)).sum(2) / powers.sum(2)).to(key.dtype)


class _Mixing(nn.Module):
    def __init__(self, config, layer_id=0):
        super().__init__()
        self.layer_id = layer_id
        self.time_shift = nn.ZeroPad2d((0, 0, 1, -1))

    def shifted(self, x, past):
        moved = self.time_shift(x)
        if past is not None:
            moved = moved.clone()
            moved[:, 0] = past[:, :, self.layer_id]
        return moved

    @staticmethod
    def mix(x, moved, share):
        return x * share + moved * (1 - share)


class TimeMix(_Mixing):
    def __init__(self, config, layer_id=0):
        super().__init__(config, layer_id)
        inner, outer = config.attention_hidden_size, config.hidden_size
        self.time_decay, self.time_first = nn.Parameter(torch.zeros(inner)), nn.Parameter(torch.zeros(inner))
        for name in ("key", "value", "receptance"):
            self.register_parameter(f"time_mix_{name}", nn.Parameter(torch.full((1, 1, outer), 0.5)))
            self.add_module(name, nn.Linear(outer, inner, bias=False))
        self.output = nn.Linear(inner, outer, bias=False)

    def forward(self, hidden, state=None, use_cache=False):
        moved = self.shifted(hidden, None if state is None else state[1])
        k = self.key(self.mix(hidden, moved, self.time_mix_key))
        v = self.value(self.mix(hidden, moved, self.time_mix_value))
        r = self.receptance(self.mix(hidden, moved, self.time_mix_receptance)).sigmoid()
        mine = None if state is None else [each[:, :, self.layer_id].clone() for each in state[2:]]
        out, mine = wkv(self.time_decay, self.time_first, k, v, mine, use_cache)
        if state is not None:
            state[1][:, :, self.layer_id] = hidden[:, -1]
            for each, new in zip(state[2:], mine, strict=True):
                each[:, :, self.layer_id] = new
        return self.output(r * out), state


class ChannelMix(_Mixing):
    def __init__(self, config, layer_id=0):
        super().__init__(config, layer_id)
        outer, inner = config.hidden_size, config.intermediate_size
        self.time_mix_key = nn.Parameter(torch.full((1, 1, outer), 0.5))
        self.time_mix_receptance = nn.Parameter(torch.full((1, 1, outer), 0.5))
        self.key, self.value = nn.Linear(outer, inner, bias=False), nn.Linear(inner, outer, bias=False)
        self.receptance = nn.Linear(outer, outer, bias=False)

    def forward(self, hidden, state=None):
        moved = self.shifted(hidden, None if state is None else state[0])
        k = F.relu(self.key(self.mix(hidden, moved, self.time_mix_key))) ** 2
        r = F.sigmoid(self.receptance(self.mix(hidden, moved, self.time_mix_receptance)))
        if state is not None:
            state[0][:, :, self.layer_id] = hidden[:, -1]
        return r * self.value(k), state


class _Block(nn.Module):
    def __init__(self, config, layer_id):
        super().__init__()
        for name in ("pre_ln", "ln1", "ln2")[layer_id > 0 :]:
            self.add_module(name, nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon))
        self.attention = TimeMix(config, layer_id)
        self.feed_forward = ChannelMix(config, layer_id)


class _Body(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList([_Block(config, layer) for layer in range(config.num_hidden_layers)])
        self.ln_out = nn.LayerNorm(config.hidden_size)


class RwkvLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.rwkv = config, _Body(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, input_ids, state=None, use_cache=False):
        if use_cache and state is None:
            wide, outer = self.config.attention_hidden_size, self.config.hidden_size
            sizes = (outer, outer, wide, wide, wide)
            state = [torch.zeros(len(input_ids), size, self.config.num_hidden_layers) for size in sizes]
            state[4] -= 1e30
        x = self.rwkv.embeddings(input_ids)
        for number, block in enumerate(self.rwkv.blocks):
            if number == 0:
                x = block.pre_ln(x)
            x = x + block.attention(block.ln1(x), state, use_cache)[0]
            x = x + block.feed_forward(block.ln2(x), state)[0]
        logits = self.head(self.rwkv.ln_out(x))
        return (logits, state) if use_cache else logits

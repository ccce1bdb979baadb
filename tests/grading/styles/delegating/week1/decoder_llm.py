"""The decoder from PyTorch's functions: F.rms_norm, SDPA, a preallocated cache, float masks."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def rms_norm(x, weight, eps):
    return F.rms_norm(x, weight.shape, weight, eps)


def swiglu(x, w_gate, w_up, w_down):
    gate, up = F.linear(x, torch.cat([w_gate, w_up])).chunk(2, -1)
    return (gate * gate.sigmoid() * up) @ w_down.mT


def rope_frequencies(config):
    width = getattr(config, "head_dim", None)
    if width is None:
        width = config.hidden_size // config.num_attention_heads
    if width % 2 != 0:
        raise ValueError(f"RoPE on an odd head_dim: {width}")
    rope = config.rope_parameters
    kind = rope.get("rope_type") or "default"
    inv_freq = 1.0 / (rope["rope_theta"] ** (torch.arange(0, width, 2).float() / width))
    if kind == "default":
        return inv_freq
    if kind != "llama3":
        raise ValueError(f"rope_type {kind} is not known")
    low_len = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high_len = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    wavelength = 2 * math.pi / inv_freq
    smooth = (rope["original_max_position_embeddings"] / wavelength - rope["low_freq_factor"]) / (
        rope["high_freq_factor"] - rope["low_freq_factor"]
    )
    between = torch.lerp(inv_freq / rope["factor"], inv_freq, smooth)
    slow = torch.where(wavelength > low_len, inv_freq / rope["factor"], between)
    return torch.where(wavelength < high_len, inv_freq, slow)


def apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1):
    if q.shape[-1] % 2:
        raise ValueError(f"cannot rotate {q.shape[-1]} channels")
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    half = q.shape[-1] // 2
    sign = torch.ones(2 * half, dtype=q.dtype)
    sign[:half] = -1
    return tuple(x * cos + x.roll(half, -1) * sign * sin for x in (q, k))


def multimodal_rope(q, k, cos, sin, mrope_section, unsqueeze_dim=1):
    if sum(mrope_section) * 2 != q.shape[-1]:
        raise ValueError(f"mrope_section {list(mrope_section)} does not fit head_dim {q.shape[-1]}")
    axis = torch.arange(3).repeat_interleave(torch.tensor(mrope_section)).repeat(2)
    index = axis.expand(1, *cos.shape[1:])
    cos, sin = cos.gather(0, index)[0], sin.gather(0, index)[0]
    return apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)


class KVCache:
    def __init__(self, room=4):
        self.room, self.memory, self.lengths = room, {}, {}

    def get_seq_length(self, layer_idx=0):
        return self.lengths.get(layer_idx, 0)

    def update(self, key, value, layer_idx):
        start = self.get_seq_length(layer_idx)
        end = self.lengths[layer_idx] = start + key.size(2)
        if layer_idx not in self.memory or self.memory[layer_idx].size(3) < end:
            grown = key.new_zeros(2, *key.shape[:2], max(2 * end, self.room), key.size(3))
            if start:
                grown[:, :, :, :start] = self.memory[layer_idx][:, :, :, :start]
            self.memory[layer_idx] = grown
        memory = self.memory[layer_idx] = self.memory[layer_idx].detach()
        memory[0, :, :, start:end], memory[1, :, :, start:end] = key, value
        return memory[0, :, :, :end], memory[1, :, :, :end]


class _Norm(nn.RMSNorm):
    pass


class _Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer = layer
        self.width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        bias = config.model_type == "qwen2"
        for name, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
            setattr(self, f"{name}_proj", nn.Linear(config.hidden_size, heads * self.width, bias))
        self.o_proj = nn.Linear(self.heads * self.width, config.hidden_size, False)

    def forward(self, x, tables, mask, cache):
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.heads, self.width)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.width)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.width).transpose(1, 2)
        q, k = apply_rotary_pos_emb(q, k, *tables, unsqueeze_dim=2)
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class _MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class _Layer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.self_attn, self.mlp = _Attention(config, layer), _MLP(config)
        self.input_layernorm = _Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = _Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x, *rest):
        x = x + self.self_attn(self.input_layernorm(x), *rest)
        return x + self.mlp(self.post_attention_layernorm(x))


class DecoderLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.model.layers = nn.ModuleList([_Layer(config, n) for n in range(config.num_hidden_layers)])
        self.model.norm = _Norm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, False)
        if config.tie_word_embeddings:
            self.model.embed_tokens.weight = self.lm_head.weight
        self.frequencies = rope_frequencies(config)  # no buffer: it is not to be converted

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None):
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        length = input_ids.shape[1]
        if position_ids is None and attention_mask is not None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        elif position_ids is None:
            position_ids = torch.arange(past, past + length).unsqueeze(0)
        x = self.model.embed_tokens(input_ids)
        angles = torch.einsum("bl,d->bld", position_ids.float(), self.frequencies)
        angles = torch.cat((angles, angles), -1)
        tables = (angles.cos().to(x.dtype), angles.sin().to(x.dtype))
        lowest = torch.finfo(x.dtype).min
        mask = torch.full((length, past + length), lowest, dtype=x.dtype).triu(past + 1)[None, None]
        if attention_mask is not None:
            mask = mask.masked_fill(~attention_mask.bool()[:, None, None], lowest)
        for layer in self.model.layers:
            x = layer(x, tables, mask, past_key_values)
        return self.lm_head(self.model.norm(x))


@torch.no_grad()
def generate(model, input_ids, max_new_tokens, attention_mask=None, use_cache=True, chunk_size=None):
    if chunk_size is not None and chunk_size <= 0:
        raise ValueError(f"{chunk_size=}")
    ids = input_ids.clone()
    mask = torch.ones_like(ids) if attention_mask is None else attention_mask.long()
    if not max_new_tokens:
        return ids
    if not use_cache:
        for _ in range(max_new_tokens):
            ids = torch.cat([ids, model(ids, attention_mask=mask)[:, -1].argmax(-1)[:, None]], 1)
            mask = F.pad(mask, (0, 1), value=1)
        return ids
    cache, done = KVCache(), 0
    for chunk in ids.split(chunk_size or ids.size(1), 1):
        done += chunk.size(1)
        logits = model(input_ids=chunk, attention_mask=mask[:, :done], past_key_values=cache)
    for n in range(max_new_tokens):
        new = logits[:, -1:].argmax(-1)
        ids, mask = torch.cat([ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
        if n + 1 < max_new_tokens:
            logits = model(input_ids=new, attention_mask=mask, past_key_values=cache)
    return ids

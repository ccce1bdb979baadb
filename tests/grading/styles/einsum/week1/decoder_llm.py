"""The decoder with complex numbers for RoPE, einsum over groups of heads, and a cache stored in pieces."""

import math

import torch
from torch import nn


def rms_norm(x, weight, eps):
    dtype = x.dtype
    if dtype in (torch.float16, torch.bfloat16):
        x, weight = x.float(), weight.float()
    return (weight * x / (x.square().sum(-1, keepdim=True) / x.size(-1) + eps).sqrt()).to(dtype)


def swiglu(x, w_gate, w_up, w_down):
    gate, up = torch.einsum("...e,ie->...i", x, w_gate), torch.einsum("...e,ie->...i", x, w_up)
    return torch.einsum("...i,ei->...e", gate / (1 + (-gate).exp()) * up, w_down)


def rope_frequencies(config):
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if width & 1:
        raise ValueError(f"head dimension {width} is odd")
    rope = dict(config.rope_parameters)
    found = []
    for i in range(width // 2):
        theta = math.exp(-2 * i / width * math.log(rope["rope_theta"]))
        match rope.get("rope_type", "default"):
            case "default":
                pass
            case "llama3":
                turns = rope["original_max_position_embeddings"] * theta / math.tau
                if turns < rope["low_freq_factor"]:
                    theta /= rope["factor"]
                elif turns <= rope["high_freq_factor"]:
                    s = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
                    theta = (1 - s) * theta / rope["factor"] + s * theta
            case other:
                raise ValueError(f"rope_type={other}")
        found.append(theta)
    return torch.tensor(found)


def apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1):
    half, odd = divmod(q.size(-1), 2)
    if odd:
        raise ValueError(f"head dimension {q.size(-1)}")
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    turn = torch.complex(cos[..., :half].to(wide), sin[..., :half].to(wide)).unsqueeze(unsqueeze_dim)

    def turned(x):
        z = torch.complex(x[..., :half].to(wide), x[..., half:].to(wide)) * turn
        return torch.cat([z.real, z.imag], -1).to(x.dtype)

    return turned(q), turned(k)


def multimodal_rope(q, k, cos, sin, mrope_section, unsqueeze_dim=1):
    half = q.size(-1) // 2
    if sum(mrope_section) != half or q.size(-1) % 2:
        raise ValueError(f"sections {list(mrope_section)} for head dimension {q.size(-1)}")
    t, h, _ = mrope_section
    cos, sin = (
        torch.cat([x[0, ..., :t], x[1, ..., t : t + h], x[2, ..., t + h : half]], -1).repeat(1, 1, 2)
        for x in (cos, sin)
    )
    return apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)


class KVCache:
    def __init__(self):
        self.pieces = []

    def update(self, key, value, layer_idx):
        while len(self.pieces) <= layer_idx:
            self.pieces.append(([], []))
        keys, values = self.pieces[layer_idx]
        keys.append(key)
        values.append(value)
        return torch.cat(keys, 2), torch.cat(values, 2)

    def get_seq_length(self, layer_idx=0):
        return sum(key.size(2) for key in self.pieces[layer_idx][0]) if layer_idx < len(self.pieces) else 0


class _Weight(nn.Module):
    def __init__(self, *shape, bias=False, fill=None):
        super().__init__()
        start = torch.randn(shape) / math.sqrt(shape[-1]) if fill is None else torch.full(shape, fill)
        self.weight = nn.Parameter(start)
        if bias:
            self.bias = nn.Parameter(torch.zeros(shape[0]))

    def forward(self, x):
        y = torch.einsum("...i,oi->...o", x, self.weight)
        return y + self.bias if hasattr(self, "bias") else y


class DecoderLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        hidden, inner = config.hidden_size, config.intermediate_size
        bias = config.model_type == "qwen2"
        sizes = {"q": config.num_attention_heads, "k": config.num_key_value_heads, "v": config.num_key_value_heads}
        layers = nn.ModuleList()
        for _ in range(config.num_hidden_layers):
            attention = {f"{n}_proj": _Weight(heads * self.width, hidden, bias=bias) for n, heads in sizes.items()}
            attention["o_proj"] = _Weight(hidden, sizes["q"] * self.width)
            mlp = {"gate_proj": _Weight(inner, hidden), "up_proj": _Weight(inner, hidden)}
            mlp["down_proj"] = _Weight(hidden, inner)
            parts = {"self_attn": nn.ModuleDict(attention), "mlp": nn.ModuleDict(mlp)}
            parts |= {f"{n}_layernorm": _Weight(hidden, fill=1.0) for n in ("input", "post_attention")}
            layers.append(nn.ModuleDict(parts))
        embed = _Weight(config.vocab_size, hidden)
        self.model = nn.ModuleDict({"embed_tokens": embed, "layers": layers, "norm": _Weight(hidden, fill=1.0)})
        self.lm_head = embed if config.tie_word_embeddings else _Weight(config.vocab_size, hidden)

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None):
        cache, eps = past_key_values or KVCache(), self.config.rms_norm_eps
        past, length = cache.get_seq_length(), input_ids.size(1)
        if position_ids is None:
            position_ids = torch.arange(past, past + length)[None]
        x = self.model["embed_tokens"].weight[input_ids]
        angles = (position_ids[..., None].double() * rope_frequencies(self.config).double()).repeat(1, 1, 2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        hidden = torch.arange(past + length) > torch.arange(past, past + length)[:, None]
        hidden = hidden[None].expand(len(input_ids), -1, -1)
        if attention_mask is not None:
            hidden = hidden | (attention_mask == 0)[:, None]
            hidden = hidden & ~torch.eye(past + length, dtype=torch.bool)[past:]  # padding sees itself, nobody sees it
        for number, layer in enumerate(self.model["layers"]):
            y = rms_norm(x, layer["input_layernorm"].weight, eps)
            q, k, v = (
                layer["self_attn"][f"{n}_proj"](y).unflatten(-1, (-1, self.width)).transpose(1, 2) for n in "qkv"
            )
            q, k = apply_rotary_pos_emb(q, k, cos, sin)
            k, v = cache.update(k, v, number)
            grouped = q.unflatten(1, (k.size(1), -1))
            scores = torch.einsum("bkgld,bksd->bkgls", grouped, k) / math.sqrt(self.width)
            weights = scores.masked_fill(hidden[:, None, None], -math.inf).softmax(-1)
            heads = torch.einsum("bkgls,bksd->blkgd", weights, v).flatten(2)
            x = x + layer["self_attn"]["o_proj"](heads)
            y = rms_norm(x, layer["post_attention_layernorm"].weight, eps)
            x = x + swiglu(y, *(layer["mlp"][f"{n}_proj"].weight for n in ("gate", "up", "down")))
        return self.lm_head(rms_norm(x, self.model["norm"].weight, eps))


def generate(model, input_ids, max_new_tokens, attention_mask=None, use_cache=True, chunk_size=None):
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size {chunk_size} is too small")
    ids, cache = input_ids, KVCache() if use_cache else None
    if attention_mask is None:
        attention_mask = torch.ones_like(ids)
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            unread = ids[:, cache.get_seq_length() :] if use_cache else ids
            size = chunk_size if chunk_size and use_cache else unread.size(1)
            while unread.size(1):
                piece, unread = unread[:, :size], unread[:, size:]
                end = ids.size(1) - unread.size(1)
                logits = model(piece, attention_mask[:, :end], None, cache)
            ids = torch.cat([ids, logits[:, -1].topk(1).indices], 1)
            attention_mask = torch.cat([attention_mask, torch.ones_like(attention_mask[:, :1])], 1)
    return ids.clone()

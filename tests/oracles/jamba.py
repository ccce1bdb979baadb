"""Reference for week1/jamba: the model in one pass, as plain formulas that compute in the dtype of their arguments;
and the tensors that models keep from token to token, counted one by one.

A model's configuration is a dictionary with the names of `transformers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.oracles.attention import attention, dims
from tests.oracles.decoder import rms_norm, swiglu
from tests.oracles.experts import moe_block
from tests.oracles.selective_scan import selective_scan

Config = Mapping[str, Any]
Shape = tuple[int, ...]


def shapes_of(config: Config) -> dict[str, Shape]:
    """The shapes in the state dict of `JambaForCausalLM`."""
    hidden, inner, experts = config["hidden_size"], config["intermediate_size"], config["num_experts"]
    channels, states, rank = config["mamba_expand"] * hidden, config["mamba_d_state"], config["mamba_dt_rank"]
    keys = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    embedding = (config["vocab_size"], hidden)
    shapes: dict[str, Shape] = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": embedding,
        "model.final_layernorm.weight": (hidden,),
    }
    attending = {
        "q_proj.weight": (hidden, hidden),
        "k_proj.weight": (keys, hidden),
        "v_proj.weight": (keys, hidden),
        "o_proj.weight": (hidden, hidden),
    }
    mixing: dict[str, Shape] = {
        "A_log": (channels, states),
        "D": (channels,),
        "in_proj.weight": (2 * channels, hidden),
        "conv1d.weight": (channels, 1, config["mamba_d_conv"]),
        "x_proj.weight": (rank + 2 * states, channels),
        "dt_proj.weight": (channels, rank),
        "dt_proj.bias": (channels,),
        "out_proj.weight": (hidden, channels),
        "dt_layernorm.weight": (rank,),
        "b_layernorm.weight": (states,),
        "c_layernorm.weight": (states,),
    }
    if config["mamba_conv_bias"]:
        mixing["conv1d.bias"] = (channels,)
    if config["mamba_proj_bias"]:
        mixing |= {"in_proj.bias": (2 * channels,), "out_proj.bias": (hidden,)}
    dense = {
        "gate_proj.weight": (inner, hidden),
        "up_proj.weight": (inner, hidden),
        "down_proj.weight": (hidden, inner),
    }
    sparse = {
        "router.weight": (experts, hidden),
        "experts.gate_up_proj": (experts, 2 * inner, hidden),
        "experts.down_proj": (experts, hidden, inner),
    }
    for i in range(config["num_hidden_layers"]):
        attends, routes = _kinds(config, i)
        parts: dict[str, Shape] = {"input_layernorm.weight": (hidden,), "pre_ff_layernorm.weight": (hidden,)}
        parts |= {("self_attn." if attends else "mamba.") + n: s for n, s in (attending if attends else mixing).items()}
        parts |= {f"feed_forward.{n}": s for n, s in (sparse if routes else dense).items()}
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in parts.items()}
    return shapes


@dims("batch", "position", "token")
def jamba_lm(
    state: Mapping[str, Tensor], input_ids: Tensor, config: Config, attention_mask: Tensor | None = None
) -> Tensor:
    """The logits of `JambaForCausalLM`. Padding rows contain arbitrary numbers."""
    length, eps = input_ids.size(1), config["rms_norm_eps"]
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    visible = torch.ones(length, length).tril().bool() & (real != 0)[:, None, None]
    x = state["model.embed_tokens.weight"][input_ids]
    for i in range(config["num_hidden_layers"]):
        start = f"model.layers.{i}."
        layer = {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
        attends, routes = _kinds(config, i)
        normed = rms_norm(x, layer["input_layernorm.weight"], eps)
        x = x + (_attention(layer, normed, visible, config) if attends else _mamba(layer, normed, real, config))
        normed = rms_norm(x, layer["pre_ff_layernorm.weight"], eps)
        if routes:
            names = ("router.weight", "experts.gate_up_proj", "experts.down_proj")
            x = x + moe_block({name: layer[f"feed_forward.{name}"] for name in names}, normed, config)
        else:
            x = x + swiglu(normed, *(layer[f"feed_forward.{part}_proj.weight"] for part in ("gate", "up", "down")))
    x = rms_norm(x, state["model.final_layernorm.weight"], eps)
    return x @ state["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"].T


def _kinds(config: Config, i: int) -> tuple[bool, bool]:
    """Whether layer i attends, and whether it routes."""
    return (
        i % config["attn_layer_period"] == config["attn_layer_offset"],
        i % config["expert_layer_period"] == config["expert_layer_offset"] and config["num_experts"] > 1,
    )


def _attention(layer: Mapping[str, Tensor], x: Tensor, visible: Tensor, config: Config) -> Tensor:
    width = config["hidden_size"] // config["num_attention_heads"]
    q, k, v = ((x @ layer[f"self_attn.{n}_proj.weight"].T).unflatten(-1, (-1, width)).transpose(1, 2) for n in "qkv")
    heads = attention(q, k, v, visible, enable_gqa=True)
    return heads.transpose(1, 2).flatten(2) @ layer["self_attn.o_proj.weight"].T


def _mamba(layer: Mapping[str, Tensor], x: Tensor, real: Tensor, config: Config) -> Tensor:
    real = real[..., None].to(x)
    projected = x @ layer["mamba.in_proj.weight"].T + layer.get("mamba.in_proj.bias", 0)
    u, z = projected.chunk(2, -1)  # (B, L, D)
    u = u * real
    width, length = config["mamba_d_conv"], u.size(1)
    past = torch.cat([torch.zeros_like(u[:, :1]).expand(-1, width - 1, -1), u], 1)
    convolved: Any = sum(past[:, w : w + length] * layer["mamba.conv1d.weight"][:, 0, w] for w in range(width))
    u = convolved + layer.get("mamba.conv1d.bias", 0)
    u = u * torch.sigmoid(u) * real
    sizes = [config["mamba_dt_rank"], config["mamba_d_state"], config["mamba_d_state"]]
    dt, B, C = (
        rms_norm(part, layer[f"mamba.{name}_layernorm.weight"], config["rms_norm_eps"])
        for name, part in zip(("dt", "b", "c"), (u @ layer["mamba.x_proj.weight"].T).split(sizes, -1), strict=True)
    )
    delta = dt @ layer["mamba.dt_proj.weight"].T
    A = -torch.exp(layer["mamba.A_log"])
    bias = layer["mamba.dt_proj.bias"]
    y = selective_scan(u.mT, delta.mT, A, B.mT, C.mT, layer["mamba.D"], z.mT, bias, delta_softplus=True)
    return y.mT @ layer["mamba.out_proj.weight"].T + layer.get("mamba.out_proj.bias", 0)


def cache_bytes(config: Config, tokens: int, dtype: torch.dtype) -> int:
    """The bytes of all tensors that are kept for one sequence of `tokens` tokens."""
    kept = [
        torch.empty(shape, dtype=kind, device="meta")
        for i in range(config["num_hidden_layers"])
        for shape, kind in _kept_by_layer(config, i, tokens, dtype)
    ]
    return sum(tensor.nbytes for tensor in kept)


def _kept_by_layer(config: Config, i: int, tokens: int, dtype: torch.dtype) -> Sequence[tuple[Shape, torch.dtype]]:
    """Shape and dtype of each tensor that layer i keeps."""
    hidden = config["hidden_size"]
    match config["model_type"]:
        case "rwkv":
            return [((hidden,), dtype)] * 2 + [((hidden,), torch.float32)] * 3
        case "mamba":
            channels, width, states = config["intermediate_size"], config["conv_kernel"], config["state_size"]
            return [((channels, width), dtype), ((channels, states), dtype)]
        case "jamba" if not _kinds(config, i)[0]:
            channels = config["mamba_expand"] * hidden
            return [((channels, config["mamba_d_conv"]), dtype), ((channels, config["mamba_d_state"]), dtype)]
        case "qwen2" if not config["use_sliding_window"] or i < config["max_window_layers"]:
            window = None
        case "mistral" | "mixtral" | "qwen2":
            window = config["sliding_window"]
        case _:
            window = None
    width = config.get("head_dim") or hidden // config["num_attention_heads"]
    shape = (config["num_key_value_heads"], tokens if window is None else min(tokens, window), width)
    return [(shape, dtype)] * 2

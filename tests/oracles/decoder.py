"""Reference for week1/decoder_llm: plain formulas that compute in the dtype of their arguments.

A model's configuration is a dictionary with the names of `transformers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.oracles.attention import attention, dims

Config = Mapping[str, Any]


@dims("batch", "position", "channel")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


@dims("batch", "position", "channel")
def swiglu(x: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
    gate = x @ w_gate.T
    return (gate / (1 + torch.exp(-gate)) * (x @ w_up.T)) @ w_down.T


@dims("pair")
def rope_frequencies(config: Config) -> Tensor:
    """The frequency of each pair of channels, one by one, in float64."""
    rope, width = config["rope_parameters"], _head_dim(config)
    frequencies = []
    for pair in range(width // 2):
        frequency = rope["rope_theta"] ** (-2 * pair / width)
        if rope.get("rope_type") == "llama3":
            wavelength = 2 * math.pi / frequency
            old, low, high = (
                rope[name] for name in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
            )
            if wavelength > old / low:
                frequency /= rope["factor"]
            elif wavelength >= old / high:
                smooth = (old / wavelength - low) / (high - low)
                frequency *= (1 - smooth) / rope["factor"] + smooth
        frequencies.append(frequency)
    return torch.tensor(frequencies, dtype=torch.float64)


@dims(("batch", "head", "position", "channel"), ("batch", "head", "position", "channel"))
def apply_rotary_pos_emb(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """(a + ib) e^iφ for each pair of channels, with a from the first half and b from the second."""
    half = cos.size(-1) // 2
    c, s = (table[..., :half].unsqueeze(unsqueeze_dim) for table in (cos, sin))

    def rotate(x: Tensor) -> Tensor:
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * c - b * s, a * s + b * c], -1)

    return rotate(q), rotate(k)


@dims(("batch", "head", "position", "channel"), ("batch", "head", "position", "channel"))
def multimodal_rope(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, mrope_section: Sequence[int], unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Channel by channel: pair p rotates with the time, the height or the width, depending on its section."""
    bounds = [sum(mrope_section[: n + 1]) for n in range(3)]
    axes = [next(n for n in range(3) if pair < bounds[n]) for pair in range(q.size(-1) // 2)] * 2
    cos, sin = (torch.stack([table[axis, ..., c] for c, axis in enumerate(axes)], -1) for table in (cos, sin))
    return apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim)


@dims("batch", "position", "token")
@torch.enable_grad()  # the closeness rule tells the model's numbers from angles by whether they require a gradient
def decoder_lm(
    state: Mapping[str, Tensor],
    input_ids: Tensor,
    config: Config,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> Tensor:
    """The logits of `LlamaForCausalLM` or `Qwen2ForCausalLM` in one pass. Padding rows contain arbitrary numbers."""
    length, width = input_ids.size(1), _head_dim(config)
    if position_ids is None:
        position_ids = torch.arange(length)[None]
    angles = position_ids[..., None] * rope_frequencies(config)
    cos, sin = (torch.cat([table, table], -1) for table in (angles.cos(), angles.sin()))
    visible = torch.arange(length) <= torch.arange(length)[:, None]
    if attention_mask is not None:
        visible = visible & (attention_mask != 0)[:, None, None]

    def linear(name: str, x: Tensor) -> Tensor:
        y = x @ state[f"{name}.weight"].T
        return y + state[f"{name}.bias"] if f"{name}.bias" in state else y

    def norm(name: str, x: Tensor) -> Tensor:
        return rms_norm(x, state[f"{name}.weight"], config["rms_norm_eps"])

    x = state["model.embed_tokens.weight"][input_ids]
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        normed = norm(f"{layer}.input_layernorm", x)
        q, k, v = (
            linear(f"{layer}.self_attn.{part}_proj", normed).unflatten(-1, (-1, width)).transpose(1, 2)
            for part in "qkv"
        )
        q, k = apply_rotary_pos_emb(q, k, cos.to(x), sin.to(x))
        heads = attention(q, k, v, visible, enable_gqa=True)
        x = x + linear(f"{layer}.self_attn.o_proj", heads.transpose(1, 2).flatten(2))
        weights = (state[f"{layer}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
        x = x + swiglu(norm(f"{layer}.post_attention_layernorm", x), *weights)
    x = norm("model.norm", x)
    return x @ state["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"].T


def _head_dim(config: Config) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]

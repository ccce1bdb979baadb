"""Reference for week1/transformer: the layers as plain formulas that compute in the dtype of their arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.oracles.attention import dims, multihead_attention


@dims("position", "channel")
def sinusoidal_positions(length: int, d_model: int) -> Tensor:
    """The table, entry by entry, in float64."""
    table = torch.zeros(length, d_model, dtype=torch.float64)
    for column in range(d_model):
        angles = torch.arange(length, dtype=torch.float64) * 10000.0 ** (-(column - column % 2) / d_model)
        table[:, column] = torch.cos(angles) if column % 2 else torch.sin(angles)
    return table


@dims("batch", "position", "channel")
def encoder_layer(
    state: Mapping[str, Tensor],
    src: Tensor,
    src_mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`torch.nn.TransformerEncoderLayer` with this state dict, without dropout.

    `options`: nhead, and activation, layer_norm_eps, batch_first and norm_first unless they are PyTorch's defaults.
    """

    def attend(x: Tensor) -> Tensor:
        return _attention(state, "self_attn.", x, x, src_mask, src_key_padding_mask, options)

    return _sublayers(state, src, [attend], options)


@dims("batch", "position", "channel")
def decoder_layer(
    state: Mapping[str, Tensor],
    tgt: Tensor,
    memory: Tensor,
    tgt_mask: Tensor | None = None,
    memory_mask: Tensor | None = None,
    tgt_key_padding_mask: Tensor | None = None,
    memory_key_padding_mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`torch.nn.TransformerDecoderLayer` with this state dict, without dropout; `options` as in `encoder_layer`."""

    def attend(x: Tensor) -> Tensor:
        return _attention(state, "self_attn.", x, x, tgt_mask, tgt_key_padding_mask, options)

    def attend_to_memory(x: Tensor) -> Tensor:
        return _attention(state, "multihead_attn.", x, memory, memory_mask, memory_key_padding_mask, options)

    return _sublayers(state, tgt, [attend, attend_to_memory], options)


def _sublayers(state: Mapping[str, Tensor], x: Tensor, attentions: list[Any], options: Mapping[str, Any]) -> Tensor:
    """The attentions, then the feed-forward network, each with its residual connection and norm."""

    def feed_forward(x: Tensor) -> Tensor:
        return _linear(state, "linear2.", _activate(_linear(state, "linear1.", x), options.get("activation", "relu")))

    for number, sublayer in enumerate([*attentions, feed_forward], 1):
        norm, eps = f"norm{number}.", options.get("layer_norm_eps", 1e-5)
        if options.get("norm_first", False):
            x = x + sublayer(_layer_norm(state, norm, x, eps))
        else:
            x = _layer_norm(state, norm, x + sublayer(x), eps)
    return x


def _attention(
    state: Mapping[str, Tensor],
    prefix: str,
    query: Tensor,
    memory: Tensor,
    mask: Tensor | None,
    padding: Tensor | None,
    options: Mapping[str, Any],
) -> Tensor:
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    output, _ = multihead_attention(
        own,
        query,
        memory,
        memory,
        num_heads=options["nhead"],
        attn_mask=mask,
        key_padding_mask=padding,
        batch_first=options.get("batch_first", True),
    )
    return output


def _linear(state: Mapping[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    x = x @ state[f"{prefix}weight"].T
    return x + state[f"{prefix}bias"] if f"{prefix}bias" in state else x


def _layer_norm(state: Mapping[str, Tensor], prefix: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    x = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * state[f"{prefix}weight"]
    return x + state[f"{prefix}bias"] if f"{prefix}bias" in state else x


def _activate(x: Tensor, activation: Any) -> Tensor:
    match activation:
        case "relu":
            return torch.where(x > 0, x, 0.0)
        case "gelu":
            return x * (1 + torch.erf(x / math.sqrt(2))) / 2
    return activation(x)

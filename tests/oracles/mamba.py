"""Reference for week1/mamba: the block as matrix products around the scan's oracle.

Whole sequences are computed at once. A submission that goes step by step must get the same result, and the states
after the last position are those of the whole sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.oracles.attention import dims
from tests.oracles.selective_scan import causal_conv1d, selective_scan_and_state


@dims("batch", "position", "channel")
def mamba(weights: Mapping[str, Tensor], hidden_states: Tensor) -> Tensor:
    """`mamba_ssm.Mamba` with this state dict: (b, l, E) -> (b, l, E)."""
    return mamba_and_states(weights, hidden_states)[0]


@dims(("batch", "position", "channel"), ("batch", "channel", "input"), ("batch", "channel", "state"))
def mamba_and_states(weights: Mapping[str, Tensor], hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and conv_state (b, d, w) and ssm_state (b, d, n) after the last position."""
    inputs, z = _linear(weights, "in_proj", hidden_states).transpose(1, 2).chunk(2, 1)  # (b, d, l)
    kernel = weights["conv1d.weight"][:, 0]  # (d, w)
    x = causal_conv1d(inputs, kernel, weights.get("conv1d.bias"), activation="silu")

    projected = x.transpose(1, 2) @ weights["x_proj.weight"].T  # (b, l, r + 2n)
    rank, states = weights["dt_proj.weight"].size(1), weights["A_log"].size(1)
    delta = projected[..., :rank] @ weights["dt_proj.weight"].T  # (b, l, d)
    B, C = projected[..., rank : rank + states], projected[..., rank + states :]  # (b, l, n)
    y, ssm_state = selective_scan_and_state(
        x,
        delta.transpose(1, 2),
        -torch.exp(weights["A_log"]),
        B.transpose(1, 2),
        C.transpose(1, 2),
        weights["D"],
        z,
        weights["dt_proj.bias"],
        delta_softplus=True,
    )
    before = inputs.new_zeros(*kernel.shape).expand(len(inputs), -1, -1)  # (b, d, w)
    conv_state = torch.cat([before, inputs], -1)[..., -kernel.size(1) :]
    return _linear(weights, "out_proj", y.transpose(1, 2)), conv_state, ssm_state


@dims("batch", "position", "token")
def language_model(weights: Mapping[str, Tensor], input_ids: Tensor, config: Mapping[str, Any]) -> Tensor:
    """`MambaForCausalLM` with this state dict: (b, l) -> (b, l, V). Without lm_head.weight, the weights are tied."""
    embeddings = weights["backbone.embeddings.weight"]
    x, eps = embeddings[input_ids], config["layer_norm_epsilon"]
    for number in range(config["num_hidden_layers"]):
        prefix = f"backbone.layers.{number}."
        block = {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)}
        mixer = {name.removeprefix("mixer."): each for name, each in block.items() if name.startswith("mixer.")}
        x = x + mamba(mixer, _rms_norm(x, block["norm.weight"], eps))
    x = _rms_norm(x, weights["backbone.norm_f.weight"], eps)
    return x @ weights.get("lm_head.weight", embeddings).T


def _linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)

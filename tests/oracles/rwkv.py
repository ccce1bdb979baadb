"""Reference for week1/rwkv: the sums of the definition, token by token, in the dtype of their arguments.

Modules see whole texts here, without a state: a submission that goes piece by piece must get the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.oracles.attention import dims


def wkv(
    time_decay: Tensor,
    time_first: Tensor,
    key: Tensor,
    value: Tensor,
    state: list[Tensor] | None = None,
    return_state: bool = False,
) -> tuple[Tensor, list[Tensor] | None]:
    """The output (B, T, C), and the state after the last token; its maximum is the largest exponent in the sums."""
    w, outputs = torch.exp(time_decay), []
    for t in range(key.size(1)):
        numerator, denominator, _ = _sums(w, key[:, :t], value[:, :t], state, (key[:, t] + time_first, value[:, t]))
        outputs.append(numerator / denominator)
    after = list(_sums(w, key, value, state)) if return_state or state is not None else None
    return torch.stack(outputs, 1), after


@dims("batch", "token", "channel")
def wkv_parallel(time_decay: Tensor, time_first: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return wkv(time_decay, time_first, key, value)[0]


def wkv_and_sums(
    time_decay: Tensor, time_first: Tensor, key: Tensor, value: Tensor, state: list[Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and what the state means independently of its maximum: the average so far, and its log weight."""
    output, after = wkv(time_decay, time_first, key, value, state, True)
    assert after is not None
    numerator, denominator, maximum = after
    return output, numerator / denominator, denominator.log() + maximum


def _sums(
    w: Tensor, key: Tensor, value: Tensor, state: list[Tensor] | None, present: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Numerator, denominator and their common exponent, over past tokens and, if given, the present one."""
    length = key.size(1)
    age = torch.arange(length - 1, -1, -1, device=key.device).to(key)[:, None]  # of each token, in decays
    terms = [(key - age * w, value, torch.ones_like(value))]  # exponents, values and weights, (B, tokens, C) each
    if state is not None:
        numerator, denominator, maximum = state
        terms.append(((maximum - length * w)[:, None], numerator[:, None], denominator[:, None]))
    if present is not None:
        exponent, v = present
        terms.append((exponent[:, None], v[:, None], torch.ones_like(v)[:, None]))
    exponents, values, weights = (torch.cat(each, 1) for each in zip(*terms, strict=True))
    highest = exponents.detach().amax(1)
    powers = torch.exp(exponents - highest[:, None])
    return (powers * values).sum(1), (powers * weights).sum(1), highest


@dims("batch", "token", "channel")
def time_mix(state: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    """`RwkvSelfAttention` with this state dict."""
    key, value, receptance = (
        _mixed(hidden, state[f"time_mix_{name}"]) @ state[f"{name}.weight"].T for name in ("key", "value", "receptance")
    )
    average = wkv(state["time_decay"], state["time_first"], key, value)[0]
    return (torch.sigmoid(receptance) * average) @ state["output.weight"].T


@dims("batch", "token", "channel")
def channel_mix(state: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    """`RwkvFeedForward` with this state dict."""
    key, receptance = (
        _mixed(hidden, state[f"time_mix_{name}"]) @ state[f"{name}.weight"].T for name in ("key", "receptance")
    )
    return torch.sigmoid(receptance) * (key.clamp(min=0) ** 2 @ state["value.weight"].T)


def _mixed(hidden: Tensor, mix: Tensor) -> Tensor:
    return hidden * mix + F.pad(hidden, (0, 0, 1, -1)) * (1 - mix)


@dims("batch", "token", "word")
def language_model(state: Mapping[str, Tensor], input_ids: Tensor, config: Mapping[str, Any]) -> Tensor:
    """`RwkvForCausalLM` with this state dict."""

    def norm(x: Tensor, name: str, eps: float = config["layer_norm_epsilon"]) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"rwkv.{name}.weight"], state[f"rwkv.{name}.bias"], eps)

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(name): each for key, each in state.items() if key.startswith(name)}

    x = norm(state["rwkv.embeddings.weight"][input_ids], "blocks.0.pre_ln")
    for block in range(config["num_hidden_layers"]):
        x = x + time_mix(part(f"rwkv.blocks.{block}.attention."), norm(x, f"blocks.{block}.ln1"))
        x = x + channel_mix(part(f"rwkv.blocks.{block}.feed_forward."), norm(x, f"blocks.{block}.ln2"))
    return norm(x, "ln_out", 1e-5) @ state["head.weight"].T

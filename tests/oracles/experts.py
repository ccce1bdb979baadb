"""Reference for week1/moe: plain formulas that compute every expert for every token.

They work in any dtype and are differentiable. `dims` names an output's dimensions from the right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.oracles.attention import dims


def route_top_k(router_logits: Tensor, k: int, renormalize: bool) -> tuple[Tensor, Tensor]:
    """The k largest probabilities, largest first, and their experts; of equal ones, the first."""
    indices = router_logits.argsort(dim=-1, descending=True, stable=True)[..., :k]
    chosen = router_logits.gather(-1, indices)
    return torch.exp(chosen - (chosen if renormalize else router_logits).logsumexp(-1, keepdim=True)), indices


@dims("slot")
def routing_weights(router_logits: Tensor, k: int, renormalize: bool) -> Tensor:
    """The weights alone, which do not depend on which of several equal experts is chosen."""
    return route_top_k(router_logits, k, renormalize)[0]


@dims("batch", "token", "channel")
def moe_block(state: Mapping[str, Tensor], hidden_states: Tensor, config: Mapping[str, Any]) -> Tensor:
    """`MixtralSparseMoeBlock` or `JambaSparseMoeBlock` with this state dict, by `config["model_type"]`."""
    mixtral = config["model_type"] == "mixtral"
    router = state["gate.weight" if mixtral else "router.weight"]
    weights, indices = route_top_k(hidden_states @ router.T, config["num_experts_per_tok"], mixtral)
    spread = torch.zeros_like(hidden_states @ router.T).scatter(-1, indices, weights)  # (B, L, E), 0 where not chosen
    gate_up = torch.einsum("blh,eih->blei", hidden_states, state["experts.gate_up_proj"])
    gate, up = gate_up.split(config["intermediate_size"], dim=-1)
    outputs = torch.einsum("blei,ehi->bleh", F.silu(gate) * up, state["experts.down_proj"])
    return torch.einsum("ble,bleh->blh", spread, outputs)


def load_balancing_loss(
    gate_logits: Sequence[Tensor], num_experts: int, top_k: int = 2, attention_mask: Tensor | None = None
) -> Tensor:
    """`load_balancing_loss_func` of transformers, expert by expert."""
    layers, loss = len(gate_logits), gate_logits[0].new_zeros(())
    real = torch.ones(len(gate_logits[0]), dtype=torch.bool) if attention_mask is None else attention_mask.flatten() > 0
    tokens = layers * int(real.sum())
    chosen = [route_top_k(logits, top_k, False)[1][real] for logits in gate_logits]
    probabilities = [torch.exp(logits - logits.logsumexp(-1, keepdim=True))[real] for logits in gate_logits]
    for expert in range(num_experts):
        fraction = sum(int((indices == expert).sum()) for indices in chosen) / tokens
        loss = loss + fraction * sum(each[:, expert].sum() for each in probabilities) / tokens
    return num_experts * loss


def parameter_counts(config: Mapping[str, Any]) -> tuple[int, int]:
    """(all, active) parameters of the model as transformers builds it, without allocating memory for them."""
    from transformers import JambaConfig, JambaForCausalLM, MixtralConfig, MixtralForCausalLM

    mixtral = config["model_type"] == "mixtral"
    made = (MixtralConfig if mixtral else JambaConfig)(**config)
    with torch.device("meta"):
        model = MixtralForCausalLM(made) if mixtral else JambaForCausalLM(made)
    total = sum(parameter.numel() for parameter in model.parameters())
    experts = sum(parameter.numel() for name, parameter in model.named_parameters() if ".experts." in name)
    num_experts = config["num_local_experts" if mixtral else "num_experts"]
    return total, total - experts + experts * config["num_experts_per_tok"] // num_experts

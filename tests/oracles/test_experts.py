"""The mixture-of-experts oracles agree with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.oracles import experts as oracle
from tests.oracles.gradients import gradients_of

CONFIGS = Path(__file__).parents[2] / "exercises" / "week1" / "configs"


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(model_type: str, **changes: Any) -> dict[str, Any]:
    experts = "num_local_experts" if model_type == "mixtral" else "num_experts"
    config = {"hidden_size": 12, "intermediate_size": 20, experts: 6, "num_experts_per_tok": 2}
    return {"model_type": model_type, **config, **changes}


def block(config: dict[str, Any]) -> nn.Module:
    from transformers import JambaConfig, MixtralConfig
    from transformers.models.jamba.modeling_jamba import JambaSparseMoeBlock
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    if config["model_type"] == "mixtral":
        made = MixtralSparseMoeBlock(MixtralConfig(**config, experts_implementation="eager"))
    else:
        made = JambaSparseMoeBlock(JambaConfig(**config, experts_implementation="eager"))
    for seed, parameter in enumerate(made.parameters()):
        parameter.data = normal(*parameter.shape, seed=seed, scale=0.4)
    return made


@pytest.mark.parametrize("model_type", ["mixtral", "jamba"])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_moe_block_is_transformers_s(model_type: str, k: int) -> None:
    config = small(model_type, num_experts_per_tok=k)
    theirs = block(config)
    state = {name: tensor.detach() for name, tensor in theirs.state_dict().items()}
    hidden_states, above = normal(2, 7, 12, seed=8), normal(2, 7, 12, seed=9)
    assert_close(oracle.moe_block(state, hidden_states, config), theirs(hidden_states))

    ours = gradients_of(oracle.moe_block)(above, state, hidden_states, config=config)
    hidden_states.requires_grad_()
    wanted = [*theirs.parameters(), hidden_states]
    found = torch.autograd.grad(theirs(hidden_states), wanted, above)
    names = [*(name for name, _ in theirs.named_parameters()), "hidden_states"]
    assert_close(ours, {f"gradient of {name}": each for name, each in zip(names, found, strict=True)})


@pytest.mark.parametrize("model_type", ["mixtral", "jamba"])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_route_top_k_is_transformers_s(model_type: str, k: int) -> None:
    config = small(model_type, hidden_size=6, num_experts_per_tok=k)
    theirs = block(config)
    router = theirs.get_submodule("gate" if model_type == "mixtral" else "router")
    router.weight.data = torch.eye(6)
    logits = normal(9, 6, seed=3, scale=3)
    _, weights, indices = router(logits)
    ours = oracle.route_top_k(logits, k, model_type == "mixtral")
    assert_close(ours, (weights, indices))
    assert_close(oracle.routing_weights(logits, k, model_type == "mixtral"), weights)


@pytest.mark.parametrize("k", [1, 2, 6])
@pytest.mark.parametrize("masked", [False, True])
def test_load_balancing_loss_is_transformers_s(k: int, masked: bool) -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    logits = tuple(normal(10, 6, seed=seed).requires_grad_() for seed in range(3))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]) if masked else None
    ours = oracle.load_balancing_loss(logits, 6, k, mask)
    theirs = load_balancing_loss_func(logits, 6, k, mask)
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits))


def test_even_routing_loses_k() -> None:
    logits = torch.eye(6).repeat(5, 1) + torch.eye(6).roll(1, 1).repeat(5, 1)
    assert_close(oracle.load_balancing_loss([logits], 6, 2), torch.tensor(2.0))


@pytest.mark.parametrize(("name", "total", "active"), [("mixtral-8x7b", 46.7, 12.9), ("jamba-v0.1", 51.6, 12.1)])
def test_parameter_counts_are_the_published_ones(name: str, total: float, active: float) -> None:
    counts = oracle.parameter_counts(json.loads((CONFIGS / f"{name}.json").read_text("utf-8")))
    assert [round(count / 1e9, 1) for count in counts] == [total, active]

"""The RWKV oracles agree with transformers' RWKV-4."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.oracles import rwkv as oracle
from tests.oracles.gradients import gradients_of

CONFIG: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 8,
    "attention_hidden_size": 8,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "layer_norm_epsilon": 1e-3,
}


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(module: Any) -> dict[str, Tensor]:
    """The module's state dict, filled with numbers large enough to show mistakes."""
    for seed, parameter in enumerate(module.parameters()):
        parameter.data = normal(*parameter.shape, seed=seed, scale=0.5)
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("begun", [False, True])
def test_wkv_is_transformers_s(scale: float, begun: bool) -> None:
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    w, u, k, v = normal(5), normal(5, seed=1), normal(2, 7, 5, seed=2, scale=scale), normal(2, 7, 5, seed=3)
    inputs = [each.requires_grad_() for each in (w, u, k, v)]
    state = [normal(2, 5, seed=4), normal(2, 5, seed=5).exp(), normal(2, 5, seed=6)] if begun else None
    ours, our_state = oracle.wkv(w, u, k, v, state, True)
    theirs, their_state = rwkv_linear_attention_cpu(w, u, k, v, state, True)
    assert_close(ours, theirs)
    assert our_state is not None
    assert_close(our_state, their_state)
    above = normal(2, 7, 5, seed=7)
    assert_close(torch.autograd.grad(ours, inputs, above), torch.autograd.grad(theirs, inputs, above))
    if not begun:
        assert_close(oracle.wkv_parallel(w, u, k, v), theirs)
    _, average, log_weights = oracle.wkv_and_sums(w, u, k, v, state)
    assert_close(average, their_state[0] / their_state[1])
    assert_close(log_weights, their_state[1].log() + their_state[2])


@pytest.mark.parametrize("channels", [8, 12])
def test_time_mix_is_transformers_s(channels: int) -> None:
    from transformers import RwkvConfig
    from transformers.models.rwkv.modeling_rwkv import RwkvSelfAttention

    theirs = RwkvSelfAttention(RwkvConfig(**CONFIG | {"attention_hidden_size": channels}))
    check(oracle.time_mix, theirs)


def test_channel_mix_is_transformers_s() -> None:
    from transformers import RwkvConfig
    from transformers.models.rwkv.modeling_rwkv import RwkvFeedForward

    check(oracle.channel_mix, RwkvFeedForward(RwkvConfig(**CONFIG)))


def check(ours: Any, theirs: Any) -> None:
    state, hidden, above = filled(theirs), normal(2, 7, 8, seed=98), normal(2, 7, 8, seed=99)
    assert_close(ours(state, hidden), theirs(hidden)[0])
    gradients = gradients_of(ours)(above, state, hidden)
    hidden.requires_grad_()
    found = torch.autograd.grad(theirs(hidden)[0], [*theirs.parameters(), hidden], above)
    names = [*(name for name, _ in theirs.named_parameters()), "hidden"]
    assert_close(gradients, {f"gradient of {name}": each for name, each in zip(names, found, strict=True)})


@pytest.mark.parametrize("training", [True, False])
def test_the_language_model_is_transformers_s(training: bool) -> None:
    from transformers import RwkvConfig, RwkvForCausalLM

    model = RwkvForCausalLM(RwkvConfig(**CONFIG)).train(training)
    state = filled(model)
    input_ids = torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(0))
    assert_close(oracle.language_model(state, input_ids, CONFIG), model(input_ids).logits)


def test_rescaling_changes_no_logits() -> None:
    from transformers import RwkvConfig, RwkvForCausalLM

    config = CONFIG | {"layer_norm_epsilon": 1e-7}  # the norms' eps would matter more for smaller hidden states
    model = RwkvForCausalLM(RwkvConfig(**config, rescale_every=1)).eval()
    state = {name: tensor.clone() for name, tensor in filled(model).items()}
    input_ids = torch.arange(7)[None]
    assert_close(oracle.language_model(state, input_ids, config), model(input_ids).logits, rtol=1e-3, atol=1e-3)

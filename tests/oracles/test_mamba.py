"""The oracles of week1/mamba agree with transformers' and mamba-ssm's Mamba."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.oracles import mamba as oracle
from tests.oracles.references import reference

SIZES = {"vocab_size": 13, "hidden_size": 8, "state_size": 3, "num_hidden_layers": 3, "layer_norm_epsilon": 1e-3}
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "all biases": {"use_bias": True},
    "no bias": {"use_conv_bias": False},
    "other sizes": {"conv_kernel": 2, "expand": 3, "time_step_rank": 2},
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def drawn(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Fill the module with random weights; the same weights in float64, for the oracle."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return in_float64(dict(module.named_parameters()))


def in_float64(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in tensors.items()}


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def assert_same(ours: Tensor, theirs: Tensor, module: nn.Module) -> None:
    """Outputs and gradients of the module's parameters are equal. The libraries compute in float32."""
    above = normal(*theirs.shape)
    parameters = list(module.parameters())
    mine = torch.autograd.grad(ours, parameters, above.double())
    other = torch.autograd.grad(theirs, parameters, above)
    for found, expected in zip((ours, *mine), (theirs, *other), strict=True):
        assert_close(found.float(), expected, rtol=1e-4, atol=2e-5 * float(expected.detach().abs().max()))


@variants
def test_the_block_is_transformers_s(variant: dict[str, Any]) -> None:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    mixer = MambaMixer(MambaConfig(**SIZES | variant), layer_idx=0)
    weights, x = drawn(mixer), normal(2, 7, 8)
    assert_same(oracle.mamba(weights, x.double()), mixer(x), mixer)


@variants
def test_the_language_model_is_transformers_s(variant: dict[str, Any]) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    for tied in (True, False):
        model = MambaForCausalLM(MambaConfig(**SIZES | variant, tie_word_embeddings=tied))
        weights, input_ids = drawn(model), torch.arange(14).reshape(2, 7) % 13
        assert ("lm_head.weight" in weights) is not tied
        assert_same(oracle.language_model(weights, input_ids, SIZES), model(input_ids).logits, model)


@pytest.fixture
def mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """mamba-ssm's class, with its reference instead of the scan's kernel and its fallbacks instead of the others."""
    mamba: Any = reference("mamba_ssm.modules.mamba_simple.Mamba")
    scan = reference("mamba_ssm.ops.selective_scan_interface.selective_scan_ref")
    names = {"selective_scan_fn": scan, "causal_conv1d_fn": None, "causal_conv1d_update": None}
    for name, value in (names | {"selective_state_update": None}).items():
        monkeypatch.setitem(mamba.forward.__globals__, name, value)
    return mamba


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": True}, {"conv_bias": False}, {"d_conv": 2, "expand": 3, "dt_rank": 2, "d_state": 1}],
    ids=["as published", "all biases", "no bias", "other sizes"],
)
def test_the_block_is_mamba_ssm_s(mamba_ssm: Any, options: dict[str, Any]) -> None:
    block = mamba_ssm(8, **options)
    weights, x = drawn(block), normal(2, 7, 8)
    assert_same(oracle.mamba(weights, x.double()), block(x), block)


@pytest.mark.parametrize("length", [1, 2, 4, 7])
def test_the_states_are_mamba_ssm_s(mamba_ssm: Any, length: int) -> None:
    block = mamba_ssm(8, d_state=3)
    weights, x = drawn(block), normal(2, length, 8)
    conv_state, ssm_state = block.allocate_inference_cache(2, length)
    with torch.no_grad():
        outputs = [block.step(each, conv_state, ssm_state)[0] for each in x.split(1, 1)]
    theirs = (torch.cat(outputs, 1), conv_state, ssm_state)
    for mine, other in zip(oracle.mamba_and_states(weights, x.double()), theirs, strict=True):
        assert_close(mine.float(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_computes_in_the_dtype_it_is_given(mamba_ssm: Any, dtype: torch.dtype) -> None:
    weights, x = drawn(mamba_ssm(8, d_state=3)), normal(2, 5, 8).to(dtype)
    rounded = {name: weight.to(dtype) for name, weight in weights.items()}
    output, exact = oracle.mamba(rounded, x), oracle.mamba(in_float64(rounded), x.double())
    assert output.dtype == dtype
    assert 0 < (output - exact).abs().max() < 64 * torch.finfo(dtype).eps * exact.abs().max()

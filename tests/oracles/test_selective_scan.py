"""The oracles of week1/selective_scan agree with mamba-ssm's and causal-conv1d's references and with transformers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.oracles import selective_scan as oracle
from tests.oracles.references import reference

FORMS = {"constant": (4, 3), "per token": (2, 3, 7), "one group": (2, 1, 3, 7), "two groups": (2, 2, 3, 7)}


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).requires_grad_()


def in_float64(arguments: dict[str, Any]) -> dict[str, Any]:
    """The oracle runs in float64; mamba-ssm's reference accepts only float32."""
    return {name: each.double() if isinstance(each, Tensor) else each for name, each in arguments.items()}


def assert_same(ours: Iterable[Tensor], theirs: Iterable[Tensor], inputs: Iterable[Tensor]) -> None:
    """Outputs and, for fixed cotangents, gradients are equal. The references compute in float32."""
    found = []
    for outputs in (list(ours), list(theirs)):
        above = [normal(*output.shape, seed=9 + number).detach().to(output) for number, output in enumerate(outputs)]
        found.append(outputs + list(torch.autograd.grad(outputs, list(inputs), above)))
    for mine, other in zip(*found, strict=True):
        assert_close(mine, other.to(mine.dtype), rtol=1e-4, atol=1e-5)


def scan_arguments(of_B: str, of_C: str, absent: tuple[str, ...] = ()) -> dict[str, Any]:
    arguments = {
        "u": normal(2, 4, 7),
        "delta": normal(2, 4, 7, seed=1),
        "A": (-normal(4, 3, seed=2).abs()).detach().requires_grad_(),
        "B": normal(*FORMS[of_B], seed=3),
        "C": normal(*FORMS[of_C], seed=4),
        "D": normal(4, seed=5),
        "z": normal(2, 4, 7, seed=6),
        "delta_bias": normal(4, seed=7),
    }
    return {name: None if name in absent else tensor for name, tensor in arguments.items()}


def tensors(arguments: dict[str, Any]) -> list[Tensor]:
    return [each for each in arguments.values() if isinstance(each, Tensor)]


@pytest.mark.parametrize("of_B", FORMS)
@pytest.mark.parametrize("of_C", FORMS)
def test_the_scan_is_mamba_s_in_every_form_of_B_and_C(of_B: str, of_C: str) -> None:
    selective_scan_ref = reference("mamba_ssm.ops.selective_scan_interface.selective_scan_ref")
    arguments = scan_arguments(of_B, of_C)
    ours = oracle.selective_scan_and_state(**in_float64(arguments), delta_softplus=True)
    theirs = selective_scan_ref(**arguments, delta_softplus=True, return_last_state=True)
    assert_same(ours, theirs, tensors(arguments))


@pytest.mark.parametrize("absent", [("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")])
@pytest.mark.parametrize("softplus", [False, True])
def test_the_scan_is_mamba_s_whatever_is_absent(absent: tuple[str, ...], softplus: bool) -> None:
    selective_scan_ref = reference("mamba_ssm.ops.selective_scan_interface.selective_scan_ref")
    arguments = scan_arguments("per token", "per token", absent)
    ours = oracle.selective_scan_and_state(**in_float64(arguments), delta_softplus=softplus)
    theirs = selective_scan_ref(**arguments, delta_softplus=softplus, return_last_state=True)
    assert_same(ours, theirs, tensors(arguments))


def test_the_scan_is_transformers_s() -> None:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    arguments = scan_arguments("per token", "per token")
    ours = oracle.selective_scan_and_state(**in_float64(arguments), delta_softplus=True)
    theirs = mamba_selective_scan(*arguments.values(), delta_softplus=True, return_last_state=True)
    assert_same(ours, theirs, tensors(arguments))


def test_the_scan_does_not_overflow() -> None:
    selective_scan_ref = reference("mamba_ssm.ops.selective_scan_interface.selective_scan_ref")
    arguments = scan_arguments("per token", "two groups")
    arguments["A"] = (1e4 * arguments["A"]).detach().requires_grad_()
    ours = oracle.selective_scan_and_state(**in_float64(arguments), delta_softplus=True)
    theirs = selective_scan_ref(**arguments, delta_softplus=True, return_last_state=True)
    assert all(each.isfinite().all() for each in ours)
    assert_same(ours, theirs, tensors(arguments))


@pytest.mark.parametrize("groups", [None, 1, 2])
@pytest.mark.parametrize("absent", [(), ("D", "z", "dt_bias")])
@pytest.mark.parametrize("softplus", [False, True])
def test_the_step_is_mamba_s(groups: int | None, absent: tuple[str, ...], softplus: bool) -> None:
    update = reference("mamba_ssm.ops.triton.selective_state_update.selective_state_update_ref")
    scan = scan_arguments("per token", "per token")
    shape = (2, 3) if groups is None else (2, groups, 3)
    arguments = {
        "x": normal(2, 4),
        "dt": normal(2, 4, seed=1),
        "A": scan["A"],
        "B": normal(*shape, seed=3),
        "C": normal(*shape, seed=4),
        "D": scan["D"],
        "z": normal(2, 4, seed=6),
        "dt_bias": scan["delta_bias"],
    }
    arguments |= dict.fromkeys(absent)
    state = normal(2, 4, 3, seed=8)
    ours = oracle.selective_state_update(state, **arguments, dt_softplus=softplus)

    heads = groups or 1  # the reference has groups of heads, not of channels

    def split(tensor: Tensor | None, name: str) -> Tensor | None:
        if tensor is None or name in ("B", "C"):
            return tensor
        axis = 0 if name in ("A", "D", "dt_bias") else 1
        return tensor.unflatten(axis, (heads, -1))

    new = split(state.detach(), "state").clone()  # type: ignore[union-attr]
    out = update(new, **{name: split(each, name) for name, each in arguments.items()}, dt_softplus=softplus)
    for mine, other in zip(ours, (out.flatten(1), new.flatten(1, 2)), strict=True):
        assert_close(mine, other)


@pytest.mark.parametrize("length", [1, 2, 3, 8])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_the_convolution_is_causal_conv1d_s(
    length: int, width: int, bias: bool, initial: bool, activation: str | None
) -> None:
    causal_conv1d_ref = reference("causal_conv1d.causal_conv1d_interface.causal_conv1d_ref")
    arguments = {
        "x": normal(2, 5, length),
        "weight": normal(5, width, seed=1),
        "bias": normal(5, seed=2) if bias else None,
        "initial_states": normal(2, 5, width - 1, seed=3) if initial else None,
    }
    ours = oracle.causal_conv1d_and_states(**in_float64(arguments), activation=activation)
    theirs = causal_conv1d_ref(**arguments, return_final_states=True, activation=activation)
    assert_same(ours, theirs, tensors(arguments))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_they_compute_in_the_dtype_they_are_given(dtype: torch.dtype) -> None:
    arguments = {name: each.to(dtype) for name, each in scan_arguments("two groups", "per token").items()}
    exact = oracle.selective_scan(**{name: each.double() for name, each in arguments.items()}, delta_softplus=True)
    output = oracle.selective_scan(**arguments, delta_softplus=True)
    assert output.dtype == dtype
    assert 0 < (output - exact).abs().max() < 60 * torch.finfo(dtype).eps

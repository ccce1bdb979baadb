"""transformers' Mamba, without its kernels."""

import torch
from transformers.models.mamba import modeling_mamba


def selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # fmt: skip
    if B.dim() != 3 or C.dim() != 3:
        raise NotImplementedError("transformers' Mamba has a B and a C of each position, without groups")
    return modeling_mamba.mamba_selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state
    )  # fmt: skip


def selective_scan_chunked(*args, **options):
    raise NotImplementedError("transformers has no scan by chunks but its kernels")


def selective_state_update(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    if B.dim() != 2 or C.dim() != 2:
        raise NotImplementedError("transformers' Mamba has no groups")
    return modeling_mamba.mamba_selective_state_update(
        state, x, dt, A, B, C, D, z=z, dt_bias=dt_bias, dt_softplus=dt_softplus
    )


def causal_conv1d(x, weight, bias=None, initial_states=None, return_final_states=False, activation=None):
    if return_final_states:
        raise NotImplementedError("transformers keeps the states of convolutions in its cache")
    length = x.size(-1)
    if initial_states is not None:
        x = torch.cat([initial_states, x], dim=-1)
    return modeling_mamba.causal_conv1d_fn(x, weight, bias, activation=activation)[..., -length:]

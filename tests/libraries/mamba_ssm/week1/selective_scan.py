"""mamba-ssm: its kernels on a GPU; on the CPU, the references that they are tested against."""

import importlib
import sys
import types

try:
    from mamba_ssm.ops import selective_scan_interface
except ModuleNotFoundError as error:
    if error.name != "selective_scan_cuda":
        raise
    importlib.import_module("transformers.models.mamba.modeling_mamba")  # before the stand-in, which it must not find
    importlib.import_module("transformers.models.jamba.modeling_jamba")
    sys.modules[error.name] = types.ModuleType(error.name)  # imported at the top, never called by the references
    from mamba_ssm.ops import selective_scan_interface

    del sys.modules[error.name]

from mamba_ssm.ops.triton import selective_state_update as state_update


def selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # fmt: skip
    scan = "selective_scan_fn" if u.is_cuda else "selective_scan_ref"
    return getattr(selective_scan_interface, scan)(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state
    )


def selective_scan_chunked(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False, chunk_size=64
):
    if not u.is_cuda:
        raise NotImplementedError("mamba-ssm's scan by chunks is its CUDA kernel")
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


def selective_state_update(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    if B.shape != C.shape:
        raise NotImplementedError("mamba-ssm's step takes B and C of one shape")
    if B.dim() == 3:  # mamba-ssm has groups of heads, not of channels
        heads = B.size(1)
        state, x, dt, z = (None if each is None else each.unflatten(1, (heads, -1)) for each in (state, x, dt, z))
        A, D, dt_bias = (None if each is None else each.unflatten(0, (heads, -1)) for each in (A, D, dt_bias))
    step = "selective_state_update" if x.is_cuda else "selective_state_update_ref"
    out = getattr(state_update, step)(state, x, dt, A, B, C, D, z=z, dt_bias=dt_bias, dt_softplus=dt_softplus)
    return out.flatten(1)


def causal_conv1d(*args, **options):
    raise NotImplementedError("mamba-ssm's convolution is causal-conv1d's")

"""causal-conv1d: its kernel on a GPU; on the CPU, the reference that the kernel is tested against."""

import importlib
import sys
import types

try:
    from causal_conv1d import causal_conv1d_interface
except ModuleNotFoundError as error:
    if error.name != "causal_conv1d_cuda":
        raise
    importlib.import_module("transformers.models.mamba.modeling_mamba")  # before the stand-in, which it must not find
    sys.modules[error.name] = types.ModuleType(error.name)  # imported at the top, never called by the reference
    from causal_conv1d import causal_conv1d_interface

    del sys.modules[error.name]


def causal_conv1d(x, weight, bias=None, initial_states=None, return_final_states=False, activation=None):
    convolve = "causal_conv1d_fn" if x.is_cuda else "causal_conv1d_ref"
    return getattr(causal_conv1d_interface, convolve)(
        x,
        weight,
        bias,
        initial_states=initial_states,
        return_final_states=return_final_states,
        activation=activation,
    )


def _not_offered(*args, **options):
    raise NotImplementedError("causal-conv1d is the convolution alone")


selective_scan = selective_scan_chunked = selective_state_update = _not_offered

"""mamba-ssm's block: its kernels on a GPU; on the CPU, its reference scan and its fallbacks for the other kernels."""

import contextlib
from types import SimpleNamespace
from unittest import mock

import torch

from .selective_scan import selective_scan_interface  # first: it makes the package importable without CUDA

from mamba_ssm.modules import mamba_simple  # isort: skip

_ON_THE_CPU = {
    "selective_scan_fn": selective_scan_interface.selective_scan_ref,
    "causal_conv1d_fn": None,
    "causal_conv1d_update": None,
    "selective_state_update": None,
}


def _kernels_for(x):
    return contextlib.nullcontext() if x.is_cuda else mock.patch.multiple(mamba_simple, **_ON_THE_CPU)


class Mamba(mamba_simple.Mamba):
    def __init__(
        self,
        d_model,
        d_state=16,
        d_conv=4,
        expand=2,
        dt_rank="auto",
        dt_min=0.001,
        dt_max=0.1,
        dt_init="random",
        dt_scale=1.0,
        dt_init_floor=1e-4,
        conv_bias=True,
        bias=False,
    ):
        sizes = {"d_state": d_state, "d_conv": d_conv, "expand": expand, "dt_rank": dt_rank}
        steps = {"dt_min": dt_min, "dt_max": dt_max, "dt_init": dt_init, "dt_scale": dt_scale}
        super().__init__(
            d_model, **sizes, **steps, dt_init_floor=dt_init_floor, conv_bias=conv_bias, bias=bias, layer_idx=0
        )

    def forward(self, hidden_states, states=None):
        prompt = SimpleNamespace(key_value_memory_dict={0: states}, seqlen_offset=0)
        with _kernels_for(hidden_states):
            return super().forward(hidden_states, None if states is None else prompt)

    def step(self, hidden_states, conv_state, ssm_state):
        with _kernels_for(hidden_states):
            return super().step(hidden_states, conv_state, ssm_state)

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None):
        return super().allocate_inference_cache(batch_size, max_seqlen, dtype)


class MambaLM(torch.nn.Module):
    def __init__(self, config):
        raise NotImplementedError("mamba-ssm's language model has norms in Triton, and names of its own")

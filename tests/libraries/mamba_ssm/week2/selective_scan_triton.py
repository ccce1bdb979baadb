"""mamba-ssm's CUDA kernel: no Triton, and on a GPU only. It is what speed is compared with."""

from ..week1 import selective_scan as on_any_device


def selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # fmt: skip
    if not u.is_cuda:
        raise NotImplementedError("mamba-ssm's kernel needs a GPU")
    if not hasattr(on_any_device.selective_scan_interface.selective_scan_cuda, "fwd"):
        raise NotImplementedError("mamba-ssm is installed without its kernel, which needs a GPU's compiler")
    return on_any_device.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)

"""Which of PyTorch's attention kernels takes a call, and why another one refuses it.

`torch.nn.functional.scaled_dot_product_attention` (SDPA) has several implementations, the members of
`torch.nn.attention.SDPBackend`, and picks one by device, dtype, shapes, strides, mask and dropout.

Sizes in the shapes below: B batch, H heads, L queries, S keys, D width of one head.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def usable_backends(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
) -> list[SDPBackend]:
    """Every backend that, as the only one allowed, performs this call here and now.

    The arguments are those of SDPA and may be anything that it may be called with, wrong calls as well: those no
    backend takes. Whatever is switched on or off outside changes nothing, and nothing is left changed: no switch, no
    random state, no warning filter. No warning is heard.

    Args:
        query: (B, H, L, D), in PyTorch's own words `(N, ..., L, E)`.
        key: (B, H, S, D).
        value: (B, H, S, D_v).
        attn_mask: broadcasts to (B, H, L, S); boolean or of query's dtype.
        is_causal: as in SDPA.
        dropout_p: as in SDPA.

    Returns:
        Members of `SDPBackend` without ERROR, each once, in any order; [] where there is none.
    """
    raise NotImplementedError


def attend_with(
    backend: SDPBackend,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
) -> Tensor:
    """SDPA by this backend and no other, whatever is switched on or off outside.

    Args:
        backend: a member of `SDPBackend`. The other arguments are those of `usable_backends`.

    Returns:
        What SDPA returns: (B, H, L, D_v), differentiable.

    Raises:
        RuntimeError: PyTorch refuses the call with this backend. All switches are as they were then, too.
        ValueError: backend is no member of `SDPBackend`; the message shows it.
    """
    raise NotImplementedError


def why_not(
    backend: SDPBackend,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
) -> str | None:
    """PyTorch's own reason why the backend refuses the call; None where it performs it.

    PyTorch says it in warnings ("Flash attention kernel not used because: …", and the reason in the next one) and then
    raises an error that only says that no kernel is left. Where there are no warnings, the error is the reason.

    Args:
        backend: a member of `SDPBackend`. The other arguments are those of `usable_backends`, and so is the promise
            that nothing is left changed and no warning is heard.

    Returns:
        Text that holds PyTorch's words as they are, any others beside them.
    """
    raise NotImplementedError
